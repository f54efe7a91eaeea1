"""What a router that reads the prompt's text is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cluster.domain.decision import CandidateScore, Granularity
from cluster.errors import BraidError
from router_service.routers.sentences import SentenceConfig

BASE_ALIAS = ""
"""The candidate that stands for the base model without an adapter; its delta is zero."""

WEIGHT_DECIMALS = 4
"""Routed weights are rounded to this many decimals before they are signed (decision 0001)."""

MAX_WEIGHT = 1000.0
"""Of an adapter in a mixture, on either side of zero: beyond what any blend needs, and within what
a model still answers with numbers."""


class RouterFailed(BraidError):
    """A router could not answer for this prompt; the base alone answers instead."""

    code = "router_failed"


class Need(StrEnum):
    """What a router must be given; checked when the router is built."""

    TEXT = "text"  # the prompt's text, before prefill
    PROMPT_HIDDEN = "prompt_hidden"  # hidden states of the prompt, during prefill
    TOKEN_HIDDEN = "token_hidden"  # the residual stream of each token, at each layer's entry
    SITE_INPUTS = "site_inputs"  # the input of each adapted linear, for each token


class Stage(StrEnum):
    """When a request's weights must exist, in the order of a request's life."""

    ADMISSION = "admission"  # they came with the request or with the configuration
    TEXT = "text"  # before prefill, from the text
    PREFILL = "prefill"  # in prefill, layer by layer, then frozen
    SENTENCE = "sentence"  # as TEXT, and again at the end of each sentence
    LAYER = "layer"  # at each layer's entry, for every token
    SITE = "site"  # at each linear, for every token


class Axis(StrEnum):
    """What the weights are over."""

    ADAPTERS = "adapters"
    MODULES = "modules"  # the linear modules of one adapter


class Resolution(StrEnum):
    """What shares one weight within a request's or a token's row."""

    ALL = "all"  # every site of the model
    LAYER = "layer"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a router is and needs; the application is refused where it cannot be given.

    ``layers`` and ``width`` are those of the base whose states the router reads; None: any base.
    """

    stage: Stage
    granularity: Granularity
    needs: frozenset[Need]
    axis: Axis = Axis.ADAPTERS
    resolution: Resolution = Resolution.ALL
    causal: bool = True  # a token's weights depend on no later token: prefixes may be shared
    max_fan_out: int | None = None  # most adapters in one answer; None: every candidate
    layers: int | None = None
    width: int | None = None
    history: int = 0  # user turns before the last one that the router reads, at most


@dataclass(frozen=True, slots=True)
class RoutedMixture:
    """A router's answer in aliases.

    ``weights`` has the kept adapters in candidate order, without the base and without zeros;
    ``scores`` has every allowed candidate, the base included. The base's probability has that of
    candidates that are not allowed, and is there without being a candidate where it has a share.
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
    def declares(self) -> Declaration:
        """What it is and needs."""
        ...

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


class ConversationRouter(PromptRouter, Protocol):
    """A router that declares a history: it reads user turns before the last one too."""

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose for ``text``, after ``earlier`` turns, the oldest first.

        Raises:
            RouterFailed: no answer for this text.
        """
        ...


class SentenceRouter(PromptRouter, Protocol):
    """A router of `Stage.SENTENCE`: it is asked again for each sentence of the answer."""

    @property
    def sentences(self) -> SentenceConfig:
        """How the answer's sentences are told apart."""
        ...

    def reading(self, prompt: str, answer: str) -> str:
        """What ``reroute`` reads: with an equal text it gives an equal answer."""
        ...

    def reroute(self, prompt: str, answer: str, allowed: frozenset[str]) -> RoutedMixture:
        """Choose for what follows ``answer``, which ends in the beginning of a new sentence.

        Raises:
            RouterFailed: no answer for this text.
        """
        ...


class ConversationSentenceRouter(SentenceRouter, Protocol):
    """A router of `Stage.SENTENCE` that declares a history."""

    def reroute(
        self, prompt: str, answer: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """Choose for what follows ``answer``, after ``earlier`` turns, the oldest first.

        Raises:
            RouterFailed: no answer for this text.
        """
        ...
