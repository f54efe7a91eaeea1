"""Tenants share a simulated replica by their weights, with either engine."""

import pytest

from cluster.domain.ids import TenantId
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, TierPolicy
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaEngine
from cluster.simulation.trace import TraceRequest
from tests.support.small_traces import spec_of

ENGINES = pytest.mark.parametrize("engine", ["exact", "fast"])


def requests(
    tenant: str, count: int, tokens: int, *, begin: float = 1.0, gap: float = 0.0
) -> list[TraceRequest]:
    """Return requests from a second on, ``gap`` seconds apart."""
    return [
        TraceRequest(
            at=begin + gap * number,
            tenant=TenantId(tenant),
            adapters=("a0" if tenant == "flood" else "a1",),
            prompt_tokens=32,
            generated_tokens=tokens,
            max_tokens=tokens,
        )
        for number in range(count)
    ]


def run(trace: list[TraceRequest], engine: ReplicaEngine, **changes: object) -> SimulationResult:
    by_time = sorted(trace, key=lambda asked: asked.at)
    one = {"policy": ClusterPolicy.fixed(1), "replicas": 1, "engine": engine}
    return simulate(spec_of(by_time, 2, **{**one, **changes}))


@ENGINES
def test_a_flood_keeps_nobody_waiting(engine: ReplicaEngine) -> None:
    flood, quiet = requests("flood", 80, 100), requests("quiet", 8, 8, begin=3.0, gap=1.3)
    found = run(flood + quiet, engine)
    assert {served.outcome for served in found.requests} == {"ok"}
    ttft = [s.ttft for s in found.requests if s.asked.tenant == "quiet" and s.ttft is not None]
    assert len(ttft) == len(quiet)
    assert max(ttft) < 0.5  # an answer of the flood takes several seconds


@ENGINES
def test_answers_follow_weights(engine: ReplicaEngine) -> None:
    trace = requests("flood", 400, 40) + requests("other", 400, 40)
    policy = ClusterPolicy(
        tiers={"heavy": TierPolicy(weight=3.0), "usual": TierPolicy()},
        tenants={"other": "heavy", "*": "usual"},
        replicas=ReplicasPolicy(min=1, max=1),
    )
    found = run(trace, engine, policy=policy, until=40.0)
    ended = {
        tenant: sum(s.outcome == "ok" for s in found.requests if s.asked.tenant == tenant)
        for tenant in ("flood", "other")
    }
    assert min(ended.values()) > 40
    assert 2.6 <= ended["other"] / ended["flood"] <= 3.4
