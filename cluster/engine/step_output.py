"""What a runner answers to a plan: the contract between the step loop and the tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.domain.decision import SiteWeights
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import TokenLogprobs
from cluster.engine.mixing_spec import Mixing
from cluster.engine.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One token for each sequence of the plan that samples."""

    token_ids: Mapping[RequestId, int]
    logprobs: Mapping[RequestId, TokenLogprobs] = field(default_factory=dict)  # where asked for
    failed: Mapping[RequestId, str] = field(default_factory=dict)  # request -> what was wrong
    prompt_logprobs: Mapping[RequestId, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    """Of the tokens after the step's rows of a prompt, where asked for and not given before."""
    decided: Mapping[RequestId, SiteWeights] = field(default_factory=dict)
    """What a prompt's router has decided, for the sequences that waited for it."""
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

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        """Compute a plan, in the prepared thread; ``seeds`` has those of its requests."""
        ...

    def rest(self) -> None:
        """Let go of what was kept for a next step: there may be none for long."""
        ...
