"""Long prompts of one tenant keep no answers of another waiting, with either engine."""

import pytest

from cluster.domain.ids import TenantId
from cluster.placement.policy import ClusterPolicy, TierPolicy
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaEngine
from cluster.simulation.trace import TraceRequest
from tests.support.small_traces import spec_of

ENGINES = pytest.mark.parametrize("engine", ["exact", "fast"])
ITL_S = 0.15


def run(long_prompts: int, engine: ReplicaEngine) -> SimulationResult:
    long = [_request(0.1 * n, "long", 1500, 1) for n in range(long_prompts)]
    short = [_request(2.0 + 4.0 * n, "short", 16, 12) for n in range(4)]
    policy = ClusterPolicy.fixed(1).model_copy(
        update={"tiers": {"standard": TierPolicy(itl=ITL_S)}, "tenants": {"*": "standard"}}
    )
    trace = sorted(long + short, key=lambda asked: asked.at)
    return simulate(spec_of(trace, 2, policy=policy, replicas=1, engine=engine))


def _request(at: float, tenant: str, prompt: int, answer: int) -> TraceRequest:
    return TraceRequest(
        at=at,
        tenant=TenantId(tenant),
        adapters=("a0" if tenant == "long" else "a1",),
        prompt_tokens=prompt,
        generated_tokens=answer,
        max_tokens=answer,
    )


@ENGINES
def test_answers_keep_their_promised_pace_and_begin_soon(engine: ReplicaEngine) -> None:
    found = run(12, engine)
    assert {served.outcome for served in found.requests} == {"ok"}
    short = [served for served in found.requests if served.asked.tenant == "short"]
    assert max(served.itl or 0.0 for served in short) <= ITL_S * 1.2  # costs are learnt on the way
    assert max(served.ttft or 0.0 for served in short) <= 1.5
