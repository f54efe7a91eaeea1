"""What a router that reads the prompt's text is."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cluster.domain.decision import CandidateScore, Granularity
from cluster.errors import BraidError

BASE_ALIAS = ""
"""The candidate that stands for the base model without an adapter; its delta is zero."""

WEIGHT_DECIMALS = 4
"""Routed weights are rounded to this many decimals before they are signed (decision 0001)."""


class RouterFailed(BraidError):
    """A router could not answer for this prompt; the base alone answers instead."""

    code = "router_failed"


class Need(StrEnum):
    """What a router must be given; checked when the router is built."""

    TEXT = "text"  # the prompt's text, before prefill
    PROMPT_HIDDEN = "prompt_hidden"  # hidden states of the prompt, during prefill
    TOKEN_HIDDEN = "token_hidden"  # hidden states of each token, in every step


@dataclass(frozen=True, slots=True)
class RoutedMixture:
    """A router's answer in aliases.

    ``weights`` has the kept adapters in candidate order, without the base and without zeros;
    ``scores`` has every allowed candidate, the base included.
    """

    weights: tuple[tuple[str, float], ...]
    scores: tuple[CandidateScore, ...]


class PromptRouter(Protocol):
    """Chooses adapters and weights from a prompt's text, before prefill."""

    @property
    def name(self) -> str:
        """What callers write after ``auto:``."""
        ...

    @property
    def version(self) -> str:
        """Digest of all that the answer depends on, besides the text and who may use what."""
        ...

    @property
    def needs(self) -> frozenset[Need]: ...

    @property
    def granularity(self) -> Granularity: ...

    @property
    def candidates(self) -> tuple[str, ...]:
        """Aliases in class order; ``BASE_ALIAS`` may be one of them."""
        ...

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Choose among ``allowed``, a subset of the candidates.

        The same arguments give the same answer.

        Raises:
            RouterFailed: no answer for this text.
        """
        ...
