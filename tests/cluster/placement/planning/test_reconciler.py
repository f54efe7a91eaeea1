"""The controller's state machine, tick by tick, and the cluster in virtual time."""

import json
import random

import pytest

from cluster.domain.adapter import AdapterState
from cluster.errors import IntegrityError
from cluster.placement.planning.reconciler import Reconciler
from cluster.placement.policy import ClusterPolicy, Pin, PlacementPolicy, ReplicasPolicy
from tests.support.placement_simulator import (
    SimReplica,
    Simulation,
    Stream,
    random_chooser,
    rendezvous_chooser,
)


def policy_of(replicas: int = 2, pins=(), **placement) -> ClusterPolicy:
    return ClusterPolicy(
        replicas=ReplicasPolicy(min=replicas, max=replicas),
        placement=PlacementPolicy(**{"spare_share": 0.0, **placement}),
        pins=tuple(pins),
    )


PIN_A = [Pin(adapter="a", copies="all")]


@pytest.fixture
def infos(build):
    return [build.info(name) for name in "abc"]


def test_a_plan_is_sent_until_it_is_acknowledged_and_loaded(build, infos) -> None:
    reconciler = Reconciler(resend_s=5.0)
    policy = policy_of(1, PIN_A)

    def tick(at, **snapshot):
        return reconciler.tick([build.snapshot(at=at, **snapshot)], infos, policy, at)

    (told,) = tick(100.0).replica_plans
    assert (told.replica_id, told.version, told.desired) == ("r0", 1, ("digest-a",))
    assert tick(101.0).replica_plans == ()
    assert tick(105.0).replica_plans == (told,)
    loading = (build.resident("a", AdapterState.LOADING),)
    assert tick(106.0, resident=loading, desired=("a",), desired_version=1).replica_plans == ()
    ready = {"resident": (build.resident("a"),), "desired": ("a",), "desired_version": 1}
    for at in (107.0, 120.0, 140.0):
        assert tick(at, **ready).replica_plans == ()
    assert reconciler.status()["version"] == 1

    # Given up by the replica itself: wanted again, at the same version.
    (again,) = tick(160.0, desired=("a",), desired_version=1).replica_plans
    assert again == told


def test_history_and_status_say_why(build, infos) -> None:
    reconciler = Reconciler()
    reconciler.tick([build.snapshot()], infos, policy_of(1, [*PIN_A, Pin(adapter="zz")]), 100.0)
    status = reconciler.status()
    json.dumps(status)
    assert status["replicas"]["r0"]["desired"] == [{"digest": "digest-a", "adapter": "a"}]
    assert status["unknown_pins"] == ['pins[1].adapter: no adapter "zz"']
    (entry,) = status["adapters"]
    assert entry["reason"].startswith("copies 0 -> 1: pinned to 1")
    kinds = [(line["kind"], line["adapter"]) for line in status["history"]]
    assert kinds == [("replica_joined", ""), ("copies", "a"), ("prefetch", "a")]
    assert status["history"][1]["at"] == 100.0


def test_history_is_bounded(build, infos) -> None:
    reconciler = Reconciler(history=3)
    for index in range(10):
        reconciler.tick([build.snapshot(f"r{index}", at=100.0)], infos, policy_of(1), 100.0)
    assert len(reconciler.history) == 3


def test_failed_prefetches_wait_twice_as_long_each_time(build, infos) -> None:
    reconciler = Reconciler()
    policy = policy_of(1, PIN_A, retry_s=10.0)

    def told_at(at) -> bool:
        return bool(reconciler.tick([build.snapshot(at=at)], infos, policy, at).replica_plans)

    def fail(at) -> None:
        reconciler.acknowledge("r0", 1, failed={"digest-a": "corrupt"}, policy=policy, now=at)

    def wanted() -> bool:
        return bool(reconciler.status()["replicas"]["r0"]["desired"])

    assert told_at(100.0)
    fail(101.0)
    told_at(102.0)
    assert not wanted()
    told_at(110.9)
    assert not wanted()
    assert told_at(111.0)
    assert wanted()
    fail(112.0)
    told_at(131.0)
    assert not wanted()
    assert told_at(132.0)
    (failure,) = reconciler.status()["failures"]
    assert (failure["attempts"], failure["message"]) == (2, "corrupt")
    reconciler.acknowledge("r0", 9, loaded=["digest-a"], policy=policy, now=133.0)
    assert reconciler.status()["failures"] == []


def test_what_is_no_longer_listed_has_failed_nowhere(build, infos) -> None:
    reconciler = Reconciler()
    policy = policy_of(1)
    reconciler.tick([build.snapshot(at=100.0)], infos, policy, 100.0)
    failed = {"digest-a": "corrupt", "digest-b": "corrupt"}
    reconciler.acknowledge("r0", 1, failed=failed, policy=policy, now=100.0)
    assert [f["digest"] for f in reconciler.status()["failures"]] == ["digest-a", "digest-b"]
    reconciler.tick([build.snapshot(at=101.0)], infos[1:], policy, 101.0)
    assert [f["digest"] for f in reconciler.status()["failures"]] == ["digest-b"]


def test_a_lost_replica_is_replaced_elsewhere(build, infos) -> None:
    reconciler = Reconciler()
    policy = policy_of(2, [Pin(adapter="a", copies=1)], lost_after_s=10.0)
    both = [build.snapshot("r0"), build.snapshot("r1")]
    (told,) = reconciler.tick(both, infos, policy, 100.0).replica_plans
    other = "r1" if told.replica_id == "r0" else "r0"
    (after,) = reconciler.tick(
        [build.snapshot(other, at=111.0)], infos, policy, 111.0
    ).replica_plans
    assert (after.replica_id, after.desired) == (other, ("digest-a",))
    assert after.version > told.version
    assert "replica_lost" in [change.kind for change in reconciler.history]


def test_a_replica_missing_for_a_moment_loses_nothing(build, infos) -> None:
    reconciler = Reconciler()
    policy = policy_of(2, [Pin(adapter="a", copies=1)], lost_after_s=10.0)
    reconciler.tick([build.snapshot("r0"), build.snapshot("r1")], infos, policy, 100.0)
    before = reconciler.status()["version"]
    for gone in ("r0", "r1"):
        reconciler.tick([build.snapshot(gone, at=104.0)], infos, policy, 104.0)
    assert reconciler.status()["version"] == before


def test_a_draining_replica_gets_nothing_new(build, infos) -> None:
    actions = Reconciler().tick(
        [build.snapshot("r0", draining=True), build.snapshot("r1")], infos, policy_of(2, PIN_A), 100
    )
    assert [told.replica_id for told in actions.replica_plans] == ["r1"]


def test_a_restarted_controller_goes_on_as_if_nothing_happened(build, infos) -> None:
    policy = policy_of(2, [Pin(adapter="b", copies=1)])
    first = Reconciler()
    for second in range(20):
        loads = {("a", "acme"): 5 * second}
        snapshots = [build.snapshot("r0", at=100.0 + second, loads=loads), build.snapshot("r1")]
        first.tick(snapshots, infos, policy, 100.0 + second)
    second = Reconciler.from_state(json.loads(json.dumps(first.to_state())))
    assert second.to_state() == first.to_state()  # type: ignore[attr-defined] # a name used twice
    news = [
        build.snapshot("r0", at=120.0, loads={("a", "acme"): 100}),
        build.snapshot("r1", at=120.0),
    ]
    one, two = (r.tick(news, infos, policy, 120.0) for r in (first, second))
    assert one.replica_plans == two.replica_plans
    assert one.load == two.load
    assert one.copies == two.copies
    assert first.status()["version"] == second.status()["version"]  # type: ignore[attr-defined] # a name used twice


def test_state_of_another_format_is_refused() -> None:
    with pytest.raises(IntegrityError, match="format 99"):
        Reconciler.from_state({"format": 99})


def test_a_controller_without_state_takes_over_what_replicas_follow(build, infos) -> None:
    reconciler = Reconciler()
    following = build.snapshot(
        resident=(build.resident("a"),), desired=("a",), desired_version=41, loads={("a", "t"): 9}
    )
    actions = reconciler.tick([following], infos, policy_of(1, PIN_A), 100.0)
    assert actions.replica_plans == ()
    assert actions.moves == ()
    assert actions.version == 41


def test_an_old_state_does_not_fall_behind_the_replicas(build, infos) -> None:
    reconciler = Reconciler()
    policy = policy_of(1, PIN_A)
    reconciler.tick([build.snapshot()], infos, policy, 100.0)
    ahead = build.snapshot(at=101.0, desired=("b",), desired_version=7)
    (told,) = reconciler.tick([ahead], infos, policy, 101.0).replica_plans
    assert told.version == 8
    assert told.desired == ("digest-a",)


# In virtual time. The seeds are fixed: these are statements about one long run each.


def simulation(build, *, adapters=6, replicas=2, slots=4, chooser=None, seed=7, policy=None):
    infos = [build.info(f"a{i}", nbytes=100) for i in range(adapters)]
    sims = [SimReplica(f"r{i}", slots, 100 * slots, batch=16) for i in range(replicas)]
    made = Simulation(
        sims, infos, policy or ClusterPolicy.fixed(replicas), random.Random(seed), chooser=chooser
    )
    return made, [info.digest for info in infos]


def stream(rate: float, *digests, tenant="acme") -> Stream:
    return Stream(tenant, tuple(digests), rate)


def test_load_moves_and_placement_follows(build) -> None:
    cluster, digests = simulation(build)
    small = [stream(0.2, digest) for digest in digests]
    report = cluster.run([stream(5, digests[0]), *small], 60)
    assert report.copies[-1][digests[0]] == 2
    assert report.copies[-1][digests[1]] == 1
    report = cluster.run([stream(5, digests[1], tenant="globex"), *small], 120)
    assert report.copies[-1][digests[1]] == 2
    assert report.copies[-1][digests[0]] == 1
    reasons = [c.message for c in cluster.reconciler.history if c.digest == digests[1]]
    assert any("copies 1 -> 2" in r and "globex" in r for r in reasons)


def test_capacity_and_budget_hold_all_along(build) -> None:
    policy = policy_of(3, max_moves_per_tick=2)
    cluster, digests = simulation(build, adapters=20, replicas=3, slots=4, policy=policy)
    rng = random.Random(3)
    for _ in range(12):
        streams = [stream(rng.uniform(0, 1), digest) for digest in digests]
        cluster.run(streams, 10)
        for replica in cluster.replicas.values():
            assert len(replica.resident) <= replica.slots
            assert replica.nbytes <= replica.bytes_limit
            assert len(replica.desired) <= replica.slots
    assert max(cluster.report.prefetches_per_tick) <= 2


def test_a_square_wave_does_not_flap(build) -> None:
    cluster, (first, second, *_) = simulation(build)
    for _ in range(30):
        cluster.run([stream(4, first), stream(1, second)], 5)
        cluster.run([stream(1, first), stream(4, second)], 5)
    assert sum(cluster.report.prefetches_per_tick) <= 4
    changes = [c for c in cluster.reconciler.history if c.kind == "copies"]
    assert len(changes) <= 6


def test_a_lost_replica_costs_the_cluster_little(build) -> None:
    cluster, digests = simulation(build, replicas=3, adapters=6, slots=6)
    streams = [stream(1, digest) for digest in digests]
    cluster.run(streams, 60)
    cluster.lose("r1")
    cluster.run(streams, 30)
    wanted = {digest for replica in cluster.replicas.values() for digest in replica.desired}
    assert wanted == set(digests)
    before = (cluster.report.requests, cluster.report.hits)
    cluster.run(streams, 60)
    after = (cluster.report.requests - before[0], cluster.report.hits - before[1])
    assert after[1] / after[0] > 0.99


def test_constant_load_comes_to_rest(build) -> None:
    cluster, digests = simulation(build, replicas=3, adapters=9, slots=8)
    streams = [stream(1, digest) for digest in digests]
    cluster.run(streams, 60)
    moved = sum(cluster.report.prefetches_per_tick)
    version = cluster.reconciler.status()["version"]
    cluster.run(streams, 120)
    assert sum(cluster.report.prefetches_per_tick) - moved <= 1
    assert cluster.reconciler.status()["version"] - version <= 2


def hit_rate(build, chooser) -> float:
    cluster, digests = simulation(build, adapters=40, replicas=4, slots=8, chooser=chooser)
    rng = random.Random(1)
    zipf = [1 / (rank + 1) ** 1.1 for rank in range(40)]
    streams = [stream(8 * w / sum(zipf), digest) for digest, w in zip(digests, zipf, strict=True)]
    streams += [stream(0.15, *set(rng.sample(digests, 2))) for _ in range(20)]
    return cluster.run(streams, 60).hit_rate


@pytest.mark.slow
def test_mixtures_are_resident_more_often_than_by_hashing_or_chance(build) -> None:
    planned = hit_rate(build, None)
    hashed = hit_rate(build, rendezvous_chooser)
    chance = hit_rate(build, random_chooser(random.Random(2)))
    assert planned > hashed + 0.05
    assert planned > chance + 0.2
