"""A tier that promises two copies, and a replica that dies."""

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

DIES_AT = 60.0


def with_copies(copies: int | None, *rules: AdapterRule) -> ClusterPolicy:
    return ClusterPolicy(
        tiers={"gold": TierPolicy(min_copies=copies), "standard": TierPolicy()},
        tenants={"acme": "gold", "*": "standard"},
        replicas=ReplicasPolicy(min=3, max=3),
        adapters=rules,
    )


def found_after_death(copies: int, seed: int) -> list[str]:
    """Return where the tier's requests of the next 30 s found their adapter, one of them each."""
    streams = [("acme", (f"a{n}",), 0.4) for n in range(12)]
    streams += [("globex", (f"a{n}",), 0.2) for n in range(12, 18)]
    spec = spec_of(
        TraceMaker(seed).serve(streams, 90.0).requests,
        18,
        policy=with_copies(copies),
        catalog=catalog_of(18, 20 * MIB),
        shape=ReplicaSpec(slots=16),
        faults=[ReplicaDies(DIES_AT, 1)],
        seed=seed,
    )
    result = simulate(spec)
    assert {served.outcome for served in result.requests} == {"ok"}
    return [
        served.tier_found
        for served in result.requests
        if served.asked.tenant == "acme" and served.asked.at >= DIES_AT
    ]


def test_with_two_copies_one_serves_on_when_a_replica_dies() -> None:
    found = {
        n: [each for seed in (1, 4, 10) for each in found_after_death(n, seed)] for n in (1, 2)
    }
    absent = {n: sum(each in ("host", "disk") for each in found[n]) for n in found}
    cold = {n: sum(each != "device" for each in found[n]) for n in found}
    assert absent[1] > 0
    assert absent[2] == 0
    assert cold[2] < cold[1] / 2


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
