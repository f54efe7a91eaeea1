"""A tier that promises two copies, and a replica that dies."""

import pytest

from cluster.placement.policy import (
    AdapterRule,
    ClusterPolicy,
    CopyBounds,
    ReplicasPolicy,
    TierPolicy,
)
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaDies, ReplicaSpec
from tests.support.small_traces import MIB, TraceMaker, catalog_of, spec_of

DIES_AT, UNTIL = 60.0, 120.0


def with_copies(copies: int | None, *rules: AdapterRule) -> ClusterPolicy:
    return ClusterPolicy(
        tiers={"gold": TierPolicy(min_copies=copies), "standard": TierPolicy()},
        tenants={"acme": "gold", "*": "standard"},
        replicas=ReplicasPolicy(min=3, max=3),
        adapters=rules,
    )


def cold_after_death(copies: int, seed: int) -> dict[str, int]:
    """Count by tenant the requests after the death that did not find their adapter loaded."""
    streams = [("acme", (f"a{n}",), 0.5) for n in range(4)]
    streams += [("globex", (f"a{n}",), 0.5) for n in range(4, 8)]
    trace = TraceMaker(seed).serve(streams, UNTIL).requests
    result = simulate(
        spec_of(
            trace,
            8,
            policy=with_copies(copies),
            catalog=catalog_of(8, 40 * MIB),
            shape=ReplicaSpec(slots=8),
            faults=[ReplicaDies(DIES_AT, 1)],
            seed=seed,
        )
    )
    assert {served.outcome for served in result.requests} == {"ok"}
    late = [s for s in result.requests if DIES_AT <= s.asked.at and s.tier_found != "device"]
    return {name: sum(s.asked.tenant == name for s in late) for name in ("acme", "globex")}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_two_copies_one_serves_on_when_a_replica_dies(seed: int) -> None:
    assert cold_after_death(2, seed)["acme"] == 0


def placed_at_most(result: SimulationResult, digest: str) -> int:
    """Return on how many replicas an adapter was planned at once, at most."""
    desired: dict[str, bool] = {}
    most = 0
    for placed in sorted(result.placements, key=lambda each: each.at):
        desired[placed.replica] = digest in placed.desired
        most = max(most, sum(desired.values()))
    return most


def test_no_more_copies_than_a_rule_allows_are_ever_planned() -> None:
    trace = TraceMaker(4).serve([("acme", ("a0",), 14.0), ("acme", ("a1",), 1.0)], 90).requests
    free = simulate(spec_of(trace, 2, policy=with_copies(None)))
    bound = AdapterRule(adapter="a0", copies=CopyBounds(max=1))
    bounded = simulate(spec_of(trace, 2, policy=with_copies(None, bound)))
    assert placed_at_most(free, "digest-000") > 1
    assert placed_at_most(bounded, "digest-000") == 1
    assert {served.outcome for served in bounded.requests} == {"ok"}
