"""One step between its parts: the scheduler's plan, the runner's output, the chunks they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.domain.decision import SiteWeights
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import GenerationChunk, TokenLogprobs
from cluster.engine.mixing import Mixing
from cluster.engine.sequence import EngineSequence
from cluster.errors import BraidError


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """One sequence's part of a step: compute its tokens [start, start + count)."""

    sequence: EngineSequence
    start: int  # equals the number of tokens computed before the step
    count: int  # at least 1
    samples: bool  # the logits of its last token are sampled

    @property
    def end(self) -> int:
        """One past the last token computed."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The work of one step. Decodes come first, then prefills, each in order of admission."""

    step: int  # counts plans, for people
    scheduled: tuple[ScheduledSequence, ...]  # never empty

    @property
    def num_tokens(self) -> int:
        """Tokens computed in the step."""
        return sum(item.count for item in self.scheduled)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One token for each sequence of the plan that samples."""

    token_ids: Mapping[RequestId, int]
    logprobs: Mapping[RequestId, TokenLogprobs] = field(default_factory=dict)  # where asked for
    failed: Mapping[RequestId, str] = field(default_factory=dict)  # request -> what was wrong
    prompt_logprobs: Mapping[RequestId, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    """Of the tokens after the step's rows of a prompt, where asked for and not given before."""
    decided: Mapping[RequestId, SiteWeights] = field(default_factory=dict)
    """Decisions of a prompt's router, for the sequences that waited for it."""
    gate_weights: Mapping[RequestId, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """[layers][adapters] of each explained sequence's last row."""


class Runner(Protocol):
    """Computes plans."""

    def start(self) -> None:
        """Prepare the calling thread; called once, before the first plan."""
        ...

    def check_adapters(self, adapters: Sequence[tuple[Slot, float]]) -> None:
        """Raise EngineError for a mixture that cannot be applied; called from any thread."""
        ...

    def check_mixing(self, num_adapters: int, mixing: Mixing) -> None:
        """Raise EngineError for a mixing that cannot be; called from any thread."""
        ...

    def adapter_size(self, slot: Slot) -> tuple[int, int]:
        """Return the bytes and the largest rank of a slot's adapter; zeros if it is empty."""
        ...

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        """Compute a plan, in the prepared thread; ``seeds`` has those of its requests."""
        ...

    def rest(self) -> None:
        """Drop what was kept for a next step, which may be far off."""
        ...


def step_chunk(
    sequence: EngineSequence, output: StepOutput, *, sampled: bool, span_start: int | None
) -> GenerationChunk | None:
    """Build the chunk of a sequence that a committed step computed, or None if it has nothing to
    say.

    Args:
        sampled: the sequence has a token from this step.
        span_start: where the span begins whose first token this step computed.
    """
    request_id = sequence.request_id
    prompt_logprobs = output.prompt_logprobs.get(request_id, ())
    site_weights = output.decided.get(request_id)
    finished = sequence.is_finished
    if not (sampled or finished or prompt_logprobs or site_weights is not None):
        return None
    logprobs = output.logprobs.get(request_id) if sampled else None
    return GenerationChunk(
        request_id=request_id,
        token_ids=(sequence.token_ids[-1],) if sampled else (),
        logprobs=() if logprobs is None else (logprobs,),
        finish_reason=sequence.finish_reason,
        usage=sequence.usage if finished else None,
        prompt_logprobs=prompt_logprobs,
        site_weights=site_weights,
        gate_weights=output.gate_weights.get(request_id, ()) if sampled else (),
        span_start=span_start if sampled else None,
    )


def last_chunk(sequence: EngineSequence, error: BraidError | None = None) -> GenerationChunk:
    """Build the chunk that ends a sequence without a token."""
    return GenerationChunk(
        request_id=sequence.request_id,
        finish_reason=sequence.finish_reason,
        usage=sequence.usage,
        error_code=None if error is None else error.code,
        error_message=None if error is None else error.message,
    )
