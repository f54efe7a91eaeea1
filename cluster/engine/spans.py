"""Stretches of one sequence that are computed with different adapters.

A re-routed sequence has several in its completion, one with an activated LoRA has several in its
prompt: what comes before the invocation is the base's.

Keys and values that are there stay when a sequence continues with other adapters. A block's content
is then a function of all spans up to its end, so its key names them: the chain of parents has
those before, and `block_namespace` those that the block itself lies in.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.domain.decision import tagged_digest
from cluster.domain.ids import Slot


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens computed with one mixture, from ``start`` to the next span's start."""

    start: int  # index among all tokens of the sequence
    namespace: str  # KV namespace, docs/decisions/0001
    adapters: tuple[tuple[Slot, float], ...]  # (slot in the device bank, weight), in mixture order

    @property
    def slots(self) -> frozenset[Slot]:
        """Slots that it reads."""
        return frozenset(slot for slot, _ in self.adapters)


def span_at(spans: Sequence[Span], token: int) -> int:
    """Return the index of the span that a token lies in; ``spans`` by start, the first at 0."""
    return bisect_right(spans, token, key=lambda span: span.start) - 1


def spans_between(spans: Sequence[Span], start: int, stop: int) -> tuple[tuple[int, int], ...]:
    """Return (index of the span, number of tokens) of each span in tokens [start, stop)."""
    first, last = span_at(spans, start), span_at(spans, stop - 1)
    starts = [start, *(span.start for span in spans[first + 1 : last + 1]), stop]
    return tuple((first + i, b - a) for i, (a, b) in enumerate(pairwise(starts)))


def block_namespace(spans: Sequence[Span], start: int, stop: int) -> str:
    """Return the namespace of a block with tokens [start, stop): its span's own, or one of all of
    them and of where in the block they meet."""
    first, last = span_at(spans, start), span_at(spans, stop - 1)
    if first == last:
        return spans[first].namespace
    parts = []
    for span in spans[first : last + 1]:
        parts.append(("offset", struct.pack("<q", max(0, span.start - start))))
        parts.append(("namespace", span.namespace.encode()))
    return tagged_digest(*parts)
