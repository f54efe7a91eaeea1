"""Weights of a policy and of the tenants file in a whole simulated cluster."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.domain.ids import TenantId
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, TierPolicy
from cluster.simulation.result import ServedRequest
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import PolicyChanges, SimulationSpec
from tests.support.small_traces import TraceMaker, spec_of

SWAPPED_AT = 30.0


def favouring(tenant: str) -> ClusterPolicy:
    return ClusterPolicy(
        tiers={"gold": TierPolicy(weight=3.0), "usual": TierPolicy()},
        tenants={tenant: "gold", "*": "usual"},
        replicas=ReplicasPolicy(min=1, max=1),
    )


def tokens(served: Sequence[ServedRequest], tenant: str, begin: float, end: float) -> int:
    """Add up what requests got that ended in a time."""
    return sum(
        one.tokens
        for one in served
        if one.asked.tenant == TenantId(tenant)
        and one.e2e is not None
        and begin < one.asked.at + one.e2e < end
    )


def test_a_policy_divides_a_backlog_and_its_change_is_in_force_without_a_restart() -> None:
    streams = [("acme", ("a0",), 12.0), ("globex", ("a1",), 12.0)]
    trace = TraceMaker(4).serve(streams, 60).requests
    swap = PolicyChanges(SWAPPED_AT, favouring("globex"))
    result = simulate(
        spec_of(trace, 2, policy=favouring("acme"), replicas=1, faults=[swap], until=60.0)
    )
    before = [tokens(result.requests, name, 10, SWAPPED_AT) for name in ("acme", "globex")]
    after = [tokens(result.requests, name, 40, 60) for name in ("acme", "globex")]
    assert before[0] / before[1] == pytest.approx(3.0, rel=0.15)
    assert after[1] / after[0] == pytest.approx(3.0, rel=0.15)


def test_weights_of_the_tenants_file_divide_what_the_policy_does_not() -> None:
    streams = [("acme", ("a0",), 12.0), ("globex", ("a1",), 12.0)]
    trace = TraceMaker(4).serve(streams, 40).requests
    plain = spec_of(trace, 2, policy=ClusterPolicy.fixed(1), replicas=1, until=40.0)
    owned = replace(plain, own_weights={TenantId("acme"): 3.0})

    def ratio(spec: SimulationSpec) -> float:
        served = simulate(spec).requests
        return tokens(served, "acme", 10, 40) / tokens(served, "globex", 10, 40)

    assert ratio(owned) > 2.5
    assert ratio(owned) == pytest.approx(ratio(replace(plain, policy=favouring("acme"))), rel=0.05)
    for even in (plain, replace(owned, policy=favouring("globex"))):
        assert ratio(even) == pytest.approx(1.0, rel=0.25)
