"""Defines what a simulated replica needs of either simulated engine."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from cluster.domain.ids import RequestId, Slot, TenantId
from cluster.domain.request import FinishReason, GenerationRequest
from cluster.domain.work import StepTotals

A_TOKEN = 1
"""Stands for all tokens that mean nothing."""

STOP_TOKEN = 0
"""Ends a completion; a simulated engine generates it where the trace says that the answer ends."""


class EngineWork(NamedTuple):
    """One sequence to compute."""

    request: GenerationRequest
    namespace: str  # of its KV
    slots: tuple[Slot, ...]  # of its adapters
    prefix: tuple[int, ...]  # chain of hashes of its prompt's whole KV blocks
    generated_tokens: int  # after which it stops, those resumed from elsewhere included


class SequenceNews(NamedTuple):
    """Reports what a step brought for one sequence: its first token here, or its end."""

    request_id: RequestId
    generated: int  # tokens so far, those resumed from elsewhere included
    cached_tokens: int = 0  # of its prompt
    reason: FinishReason | None = None  # of its end
    began_at: float | None = None  # virtual seconds: its first step here; None: there was none
    error: str | None = None  # code, with reason ERROR


OnNews = Callable[[list[SequenceNews]], None]


class SimulatedEngine(Protocol):
    """Computes sequences in virtual time."""

    @property
    def totals(self) -> StepTotals:
        """Return the work of all steps that have ended."""
        ...

    @property
    def running(self) -> int:
        """Return the sequences in the batch."""
        ...

    @property
    def waiting(self) -> int:
        """Return the sequences not in the batch."""
        ...

    @property
    def kv_blocks_free(self) -> int:
        """Return the KV blocks that can be handed out."""
        ...

    @property
    def prefix_age_s(self) -> float:
        """Return how many seconds the prefix cache keeps a block; 0 if it dropped none."""
        ...

    @property
    def max_model_len(self) -> int:
        """Return the longest prompt plus completion, in tokens."""
        ...

    @property
    def generated_tokens(self) -> int:
        """Return all tokens generated since the start."""
        ...

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the tokens of prompts still to be computed, by tenant; none has 0."""
        ...

    def submit(self, work: EngineWork) -> None:
        """Take a sequence.

        Raises:
            RequestError, PromptTooLong, Overloaded: it cannot be served.
        """
        ...

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a sequence back that has not begun; else False."""
        ...

    def cancel(self, request_id: RequestId) -> None:
        """End a sequence before the next step."""
        ...

    def generated(self, request_id: RequestId) -> int:
        """Return the tokens of a sequence so far; 0 for one that is not here."""
        ...


def add_totals(one: StepTotals, other: StepTotals) -> StepTotals:
    """Return the work of both."""
    return StepTotals(
        one.steps + other.steps,
        one.prefill_tokens + other.prefill_tokens,
        one.decode_rows + other.decode_rows,
        one.context_blocks + other.context_blocks,
        one.adapter_bytes + other.adapter_bytes,
        one.rank_rows + other.rank_rows,
        one.seconds + other.seconds,
    )
