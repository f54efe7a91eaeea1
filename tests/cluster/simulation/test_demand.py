"""The demand of a simulation is what the cluster's fronts would have counted."""

from dataclasses import dataclass, field

from cluster.config import EngineConfig
from cluster.placement.demand.demand import DemandRate
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.inputs import ScaleInputs
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaSpec, SimulationSpec


@dataclass
class DemandWatch:
    """Keeps the demand that a count rule receives."""

    rates: tuple[DemandRate, ...] = field(default_factory=tuple)

    def count(self, inputs: ScaleInputs, in_flight: int, now: float) -> int:
        del in_flight, now
        self.rates = inputs.demand.rates
        return inputs.target


def watched(trace: str, **engine: int) -> tuple[SimulationResult, tuple[DemandRate, ...]]:
    watch = DemandWatch()
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(1),
        catalog=(),
        shape=ReplicaSpec(engine=EngineConfig.model_validate(engine)),
        scaler=watch,
        until=60.0,
    )
    return simulate(RunRecipe(base, NamedSource(trace))(1)), watch.rates


def test_cached_tokens_are_no_work() -> None:
    result, rates = watched("system-prompts,duration=60,rate=2,share=1,adapters=1,tenants=1")
    (rate,) = rates
    assert sum(one.cached_tokens for one in result.requests) > 0
    assert rate.prompt_tokens < 100  # of 192, the 128 of the system prompt once


def test_a_request_that_was_refused_says_nothing_of_answers() -> None:
    result, rates = watched(
        "constant,duration=60,rate=12,adapters=1,answer=40", max_batch_size=2, max_queued=1
    )
    assert any(one.outcome != "ok" and not one.tokens for one in result.requests)
    (rate,) = rates
    assert abs(rate.generated_tokens - 40) < 1e-6
