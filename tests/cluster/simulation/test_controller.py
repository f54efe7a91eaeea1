"""The simulated controller learns what the cluster's would, and when."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.domain.ids import ReplicaId
from cluster.placement.control.fleet import CONFIRM_S
from cluster.placement.policy import ClusterPolicy, PlacementPolicy, ReplicasPolicy
from cluster.simulation.parts.simulated_cluster import SimulatedCluster
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import (
    ControllerDies,
    Delays,
    Fault,
    ReplicaDies,
    ReplicaHangs,
    StoreLeaves,
)
from tests.support.small_traces import TraceMaker, spec_of

LOST = ReplicaId("r1")


def served(
    faults: Sequence[Fault], delays: Delays, seconds: float = 90.0
) -> tuple[SimulatedCluster, SimulationResult]:
    """Serve 12 adapters on 3 replicas, whose adapters may move at any time."""
    trace = TraceMaker(5).serve([("acme", (f"a{n}",), 0.5) for n in range(12)], 57).requests
    policy = ClusterPolicy.fixed(3).model_copy(update={"placement": PlacementPolicy()})
    spec = spec_of(trace, 12, policy=policy, faults=faults, delays=delays, until=seconds)
    cluster = SimulatedCluster(spec, None)
    try:
        cluster.run()
        return cluster, cluster.result()
    finally:
        cluster.close()


def told_elsewhere(result: SimulationResult, since: float) -> float:
    """Return when the last adapter that the lost replica alone was to have was planned again."""
    before = {p.replica: set(p.desired) for p in result.placements if p.at <= since}
    lost = before.pop(LOST)
    sole = lost.difference(*before.values())
    assert sole
    for placed in result.placements:
        if placed.at > since:
            before[placed.replica] = set(placed.desired)
            if sole <= set().union(*(found for r, found in before.items() if r != LOST)):
                return placed.at - since
    raise AssertionError(f"{sole} is planned nowhere")


def test_a_death_is_seen_by_a_call_that_fails() -> None:
    delays = Delays(error_s=0.7, link_lost_s=30.0)
    _, result = served([ReplicaDies(60.0, 1)], delays)
    assert 0.7 <= result.deaths_seen[LOST] - 60.0 <= 0.7 + 0.1
    assert 0.7 <= told_elsewhere(result, 60.0) <= 0.7 + 0.3


def test_a_death_is_seen_by_a_link_that_ends_and_a_silence() -> None:
    delays = Delays(error_s=25.0, notice_s=25.0)
    _, result = served([ReplicaDies(60.0, 1)], delays)
    assert LOST not in result.deaths_seen or result.deaths_seen[LOST] >= 85.0
    assert delays.link_lost_s + CONFIRM_S <= told_elsewhere(result, 60.0) <= 2.0


def test_one_that_hangs_delays_no_other_and_is_seen_by_its_silence() -> None:
    _, result = served([ReplicaHangs(60.0, 1, 20.0)], Delays())
    assert LOST not in result.deaths_seen
    assert 3.0 <= told_elsewhere(result, 60.0) <= 5.0
    looks = [sample.at for sample in result.samples if 60.0 < sample.at < 80.0]
    assert len(looks) >= 18


@pytest.mark.parametrize("leaves", [(), (StoreLeaves(39.0, 10.0),)])
def test_what_an_earlier_life_left_is_read_when_the_store_is_back(leaves) -> None:
    cluster, _ = served([*leaves, ControllerDies(40.0, 2.0)], Delays())
    assert cluster.controller is not None
    joined = [c for c in cluster.controller._reconciler.history if c.kind == "replica_joined"]
    assert len(joined) == 6  # three in each life


@pytest.mark.parametrize(("keeps", "knows"), [(True, True), (False, False)])
def test_a_later_life_expects_what_the_one_before_did(keeps: bool, knows: bool) -> None:
    trace = TraceMaker(5).serve([("acme", ("a0",), 1.0)], 430).requests
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=2, forecast="trend"))
    dies = ControllerDies(400.0, 2.0, keeps)
    spec = spec_of(trace, 1, policy=policy, faults=[dies], delays=Delays(), until=415.0)
    cluster = SimulatedCluster(spec, None)
    try:
        cluster.run()
        assert cluster.controller is not None
        said = cluster.controller._reconciler.status(0.0)["forecast"]
        assert (said["trend"]["work"] is not None) == knows
    finally:
        cluster.close()


@pytest.mark.parametrize("late", [0.0, 0.2, 0.4, 0.55, 0.8, 1.3])
def test_a_request_that_comes_while_the_last_replica_is_let_go_is_answered(late: float) -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=1, zero_after=5, hold=60))
    first, *_ = TraceMaker(3).serve([("acme", ("a0",), 1.0)], 10).requests
    alone = simulate(spec_of([first], 1, policy=policy, replicas=1, until=60.0))
    fell = next(sample.at for sample in alone.samples if sample.target == 0)
    second = replace(first, at=fell + late)
    result = simulate(spec_of([first, second], 1, policy=policy, replicas=1))
    assert [served.outcome for served in result.requests] == ["ok", "ok"]
