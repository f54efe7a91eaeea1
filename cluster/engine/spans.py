"""Stretches of one sequence that are computed with different adapters.

A re-routed sequence has several in its completion, one with an activated LoRA has several in its
prompt: what comes before the invocation is the base's.

Keys and values that are there stay when a sequence goes on with other adapters. A block's content
is then a function of all segments up to its end, so its key names them: the chain of parents has
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
class Segment:
    """Tokens computed with one mixture, from ``start`` to the next segment's start."""

    start: int  # index among all tokens of the sequence
    namespace: str  # KV namespace, docs/decisions/0001
    adapters: tuple[tuple[Slot, float], ...]  # (slot in the device bank, weight), in mixture order

    @property
    def slots(self) -> frozenset[Slot]:
        """Slots that it reads."""
        return frozenset(slot for slot, _ in self.adapters)


def segment_at(segments: Sequence[Segment], token: int) -> int:
    """Index of the segment that a token lies in; ``segments`` by start, the first at 0."""
    return bisect_right(segments, token, key=lambda segment: segment.start) - 1


def segment_spans(
    segments: Sequence[Segment], start: int, stop: int
) -> tuple[tuple[int, int], ...]:
    """(index of the segment, number of tokens) of each segment in tokens [start, stop)."""
    first, last = segment_at(segments, start), segment_at(segments, stop - 1)
    starts = [start, *(segment.start for segment in segments[first + 1 : last + 1]), stop]
    return tuple((first + i, b - a) for i, (a, b) in enumerate(pairwise(starts)))


def block_namespace(segments: Sequence[Segment], start: int, stop: int) -> str:
    """Namespace of a block with tokens [start, stop): its segment's own, or one of all of them and
    of where in the block they meet."""
    first, last = segment_at(segments, start), segment_at(segments, stop - 1)
    if first == last:
        return segments[first].namespace
    parts = []
    for segment in segments[first : last + 1]:
        parts.append(("offset", struct.pack("<q", max(0, segment.start - start))))
        parts.append(("namespace", segment.namespace.encode()))
    return tagged_digest(*parts)
