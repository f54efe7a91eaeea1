"""The fast engine answers as the exact one does, on every trace that has a name."""

from dataclasses import replace

import pytest

from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.statistics import quantile
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec
from cluster.simulation.traces.trace_names import NAMED_TRACES

SECONDS = 20
LEAST_REQUESTS = 30
BUSIER = {
    "diurnal": "mean=4,period=20",
    "square": "period=10",
    "flash-crowd": "at=5,decay=5",
    "drifting": "rate=4",
    "burstgpt-hour": "speed=12",
}
"""Parameters of traces that say little in so short a time, or overload three replicas."""


def times(result: SimulationResult) -> list[float]:
    return sorted(served.ttft for served in result.requests if served.ttft is not None)


@pytest.mark.parametrize("name", NAMED_TRACES)
def test_both_engines_agree_on(name: str) -> None:
    text = ",".join(filter(None, [name, f"duration={SECONDS}", BUSIER.get(name)]))
    base = SimulationSpec(trace=(), policy=ClusterPolicy.fixed(3), catalog=(), replicas=3)
    spec = RunRecipe(base, NamedSource(text))(1)
    assert len(spec.trace) >= LEAST_REQUESTS
    exact, fast = simulate(replace(spec, engine="exact")), simulate(replace(spec, engine="fast"))
    for share in (0.5, 0.99):
        found, wanted = (quantile(times(result), share) for result in (fast, exact))
        assert found == pytest.approx(wanted, rel=0.05)
    assert fast.whole_resident_share == pytest.approx(exact.whole_resident_share, abs=0.005)
    assert [s.outcome for s in fast.requests] == [s.outcome for s in exact.requests]
    assert fast.tiers.generated_tokens == exact.tiers.generated_tokens
