"""View, filters, scorers and picker."""

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import ReplicaId
from cluster.errors import IntegrityError, Overloaded, ReplicaLost
from cluster.placement.picking.cluster_view import ClusterView, ReplicaView
from cluster.placement.picking.filters import LoadBound, PickRequest
from cluster.placement.picking.neighbours import WINDOW_S
from cluster.placement.picking.picker import Picker
from cluster.placement.picking.scorers import LoadScorer, ResidencyScorer, TenantScorer
from cluster.placement.policy import PickingPolicy, ScorerWeights
from cluster.placement.rendezvous import order, weight

NOW = 100.0


def view_of(*snapshots) -> ClusterView:
    view = ClusterView()
    for snapshot in snapshots:
        assert view.update(snapshot, NOW)
    return view


def test_rendezvous_order_is_fixed_for_all_time() -> None:
    assert weight("sql", "r1") == 14924642453130344206
    assert order("sql", ["r0", "r1", "r2", "r3"]) == order("sql", ["r3", "r1", "r0", "r2"])


def test_without_one_replica_the_others_keep_their_order() -> None:
    for key in map(str, range(50)):
        ranked = order(key, ["r0", "r1", "r2", "r3"])
        assert order(key, ["r0", "r1", "r3"]) == tuple(r for r in ranked if r != "r2")


def test_rendezvous_spreads() -> None:
    first = [order(str(key), ["r0", "r1", "r2", "r3"])[0] for key in range(4000)]
    assert all(850 < first.count(f"r{i}") < 1150 for i in range(4))


def test_older_snapshots_are_ignored(build) -> None:
    view = view_of(build.snapshot(at=NOW, running=3))
    assert not view.update(build.snapshot(at=NOW - 1), NOW)
    assert view.replicas(NOW)[0].load == 3


def test_a_sent_request_counts_until_a_snapshot_can_know_it(build) -> None:
    view = view_of(build.snapshot(at=NOW))
    view.sent("q1", "r0", "acme", ["digest-a"], NOW + 1)
    (replica,) = view.replicas(NOW + 1.5)
    assert (replica.load, replica.incoming, replica.age) == (1, {"digest-a"}, 1.5)
    view.check_integrity()

    view.update(build.snapshot(at=NOW + 2, running=1), NOW + 2)
    (replica,) = view.replicas(NOW + 2)
    assert (replica.load, replica.sent, replica.incoming) == (1, 0, frozenset())


def test_a_finished_request_counts_no_more_and_a_resent_one_moves(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    view.sent("q1", "r0", "acme", [], NOW + 1)
    view.sent("q1", "r1", "acme", [], NOW + 2)
    assert [r.sent for r in view.replicas(NOW + 2)] == [0, 1]
    view.finished("q1")
    view.finished("q1")
    assert [r.sent for r in view.replicas(NOW + 2)] == [0, 0]
    view.check_integrity()


def test_a_clock_ahead_of_ours_hides_nothing_that_we_sent(build) -> None:
    view = ClusterView()
    view.update(build.snapshot(at=NOW + 50), NOW)
    view.sent("q1", "r0", "acme", [], NOW + 1)
    (replica,) = view.replicas(NOW + 1)
    assert (replica.sent, replica.age) == (1, 0.0)


def test_a_lost_replica_returns_only_with_news(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    view.sent("q1", "r0", "acme", [], NOW)
    view.remove("r0", NOW + 5)
    view.check_integrity()
    assert not view.update(build.snapshot("r0", at=NOW + 4), NOW + 6)
    assert [r.replica_id for r in view.replicas(NOW + 6)] == ["r1"]
    assert view.update(build.snapshot("r0", at=NOW + 6), NOW + 6)
    view.finished("q1")
    view.check_integrity()


def test_integrity_check_has_both_numbers(build) -> None:
    view = view_of(build.snapshot())
    view.sent("q1", "r0", "acme", [], NOW)
    view._by_replica.clear()
    with pytest.raises(IntegrityError, match="1 requests sent but 0 indexed"):
        view.check_integrity()


def residency(build, *snapshots, mixture=("a",), incoming=()) -> list[float]:
    replicas = [ReplicaView(s, 0.0, incoming=frozenset(incoming)) for s in snapshots]
    request = PickRequest(tuple(f"digest-{n}" for n in mixture))
    return list(ResidencyScorer().score(replicas, request))


def test_residency_tiers_are_in_order(build) -> None:
    full = tuple(build.resident(x, leases=1) for x in "wxyz")
    idle = tuple(build.resident(x) for x in "wxyz")
    scores = residency(
        build,
        build.snapshot("ready", resident=(build.resident("a"),)),
        build.snapshot("loading", resident=(build.resident("a", AdapterState.LOADING),)),
        build.snapshot("on_host", resident=(build.resident("a", AdapterState.ON_HOST),)),
        build.snapshot("fetching", resident=(build.resident("a", AdapterState.FETCHING),)),
        build.snapshot("desired", resident=full, desired=("a",)),
        build.snapshot("free"),
        build.snapshot("evictable", resident=idle),
        build.snapshot("full", resident=full),
    )
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert (scores[0], scores[-1]) == (1.0, 0.0)


def test_part_of_a_mixture_counts_by_bytes(build) -> None:
    full = tuple(build.resident(x, leases=1) for x in "xyz")
    holder = build.snapshot(resident=(build.resident("a", nbytes=30), *full))
    other = build.snapshot("other", resident=(build.resident("b", nbytes=10), *full))
    assert residency(build, holder, other, mixture=("a", "b")) == [0.75, 0.25]
    assert residency(build, holder, mixture=("a", "b")) == [0.5]


def test_adapters_that_a_replica_protects_are_no_room(build) -> None:
    kept = (
        build.resident("x", pinned=True),
        build.resident("y", leases=1),
        build.resident("z", AdapterState.LOADING),
        build.resident("w"),
    )
    assert residency(build, build.snapshot(resident=kept, desired=("w",)))[0] == pytest.approx(
        ResidencyScorer.HOME
    )
    assert residency(build, build.snapshot(resident=kept))[0] > ResidencyScorer.HOME


def test_a_failed_adapter_scores_nothing(build) -> None:
    failed = build.snapshot("r0", resident=(build.resident("a", AdapterState.FAILED),))
    ready = build.snapshot("r1", resident=(build.resident("a"),))
    assert residency(build, failed, ready) == [0.0, 1.0]


def test_a_mixture_that_nobody_has_goes_home(build) -> None:
    snapshots = [build.snapshot(f"r{i}") for i in range(4)]
    for name in "abcdefgh":
        scores = residency(build, *snapshots, mixture=(name,))
        best = scores.index(max(scores))
        assert f"r{best}" == order(f"digest-{name}", ["r0", "r1", "r2", "r3"])[0]
        assert scores.count(max(scores)) == 1


def test_a_copy_in_host_memory_beats_the_home_and_any_slot_beats_the_copy(build) -> None:
    idle = tuple(build.resident(x) for x in "wxyz")
    away = ("r0", "r1")
    home, other = order("digest-a", away)
    view = view_of(*(build.snapshot(name, resident=idle) for name in away))
    assert pick(view).replica_id == home
    view.set_on_host(ReplicaId(other), ["digest-a"])
    assert pick(view).replica_id == other
    view.set_on_host(ReplicaId(other), [])
    assert pick(view).replica_id == home
    view.set_on_host(ReplicaId(other), ["digest-a"])
    view.update(build.snapshot(home, resident=(build.resident("a"), *idle[1:]), at=101.0), 101.0)
    assert pick(view).replica_id == home


def test_a_lost_replicas_copies_are_forgotten(build) -> None:
    view = view_of(build.snapshot("r0"))
    view.set_on_host(ReplicaId("r0"), ["digest-a"])
    view.remove(ReplicaId("r0"), 200.0)
    view.update(build.snapshot("r0", at=201.0), 201.0)
    assert view.replicas(201.0)[0].on_host == frozenset()


def test_a_copy_is_no_room(build) -> None:
    full = tuple(build.resident(x, leases=1) for x in "wxyz")
    view = ReplicaView(build.snapshot(resident=full), 0.0, on_host=frozenset({"digest-a"}))
    scores = ResidencyScorer().score([view], PickRequest(("digest-a",)))
    assert scores == [ResidencyScorer.HOME]


def test_base_requests_are_at_home_everywhere(build) -> None:
    assert residency(build, build.snapshot(), build.snapshot("r1"), mixture=()) == [1.0, 1.0]


def test_load_score_falls_with_load(build) -> None:
    replicas = [ReplicaView(build.snapshot(f"r{n}", running=n), 0.0) for n in (0, 1, 8)]
    scores = list(LoadScorer().score(replicas, PickRequest(())))
    assert scores[0] == 1.0
    assert scores[0] > scores[1] > scores[2] > 0


def test_load_bound_refuses_what_is_far_above_the_mean(build) -> None:
    replicas = [ReplicaView(build.snapshot(f"r{n}", running=n), 0.0) for n in (0, 1, 9)]
    assert list(LoadBound(1.25, 0).refused(replicas, PickRequest(()))) == [False, False, True]
    assert list(LoadBound(1.25, 10).refused(replicas, PickRequest(()))) == [False] * 3
    assert list(LoadBound(1.25, 0).refused([], PickRequest(()))) == []


def pick(view, mixture=("a",), policy=None, **kwargs):
    request = PickRequest(tuple(f"digest-{n}" for n in mixture), **kwargs)
    return Picker(policy or PickingPolicy()).pick(view, request, NOW)


def test_the_replica_with_the_whole_mixture_wins_over_parts(build) -> None:
    choice = pick(
        view_of(
            build.snapshot("r0", resident=(build.resident("a"),)),
            build.snapshot("r1", resident=(build.resident("a"), build.resident("b")), running=1),
            build.snapshot("r2", resident=(build.resident("b"),)),
        ),
        ("a", "b"),
    )
    assert choice.replica_id == "r1"
    assert dict(choice.scores)["residency"] == 1.0
    assert [name for name, _ in choice.scores] == ["residency", "load", "tenants", "kv"]
    assert choice.considered == 3


def test_a_hot_replica_is_passed_over_although_it_has_the_adapter(build) -> None:
    choice = pick(
        view_of(
            build.snapshot("r0", resident=(build.resident("a"),), running=20),
            build.snapshot("r1", running=1),
        )
    )
    assert choice.replica_id == "r1"


def test_local_corrections_spread_a_burst(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    chosen = []
    for index in range(20):
        choice = pick(view, ())
        chosen.append(choice.replica_id)
        view.sent(f"q{index}", choice.replica_id, "acme", [], NOW + 0.001)
    assert chosen.count("r0") == chosen.count("r1") == 10


def test_draining_replicas_get_nothing(build) -> None:
    view = view_of(build.snapshot("r0", draining=True), build.snapshot("r1", running=50))
    assert pick(view).replica_id == "r1"


def test_stale_replicas_are_a_last_resort(build) -> None:
    stale = build.snapshot("r0", at=NOW - 60, resident=(build.resident("a"),))
    assert pick(view_of(stale, build.snapshot("r1", running=9))).replica_id == "r1"
    alone = view_of(stale)
    assert pick(alone).replica_id == "r0"
    explanation = Picker(PickingPolicy()).explain(alone, PickRequest(()), NOW)
    assert explanation.passed_over == ("stale",)


def test_a_retry_avoids_the_replica_that_failed(build) -> None:
    view = view_of(build.snapshot("r0", resident=(build.resident("a"),)), build.snapshot("r1"))
    assert pick(view, exclude={"r0"}).replica_id == "r1"


def test_full_queues_are_overload_and_nobody_is_a_lost_replica(build) -> None:
    policy = PickingPolicy(max_queued=2)
    full = view_of(build.snapshot("r0", queued=2), build.snapshot("r1", draining=True))
    with pytest.raises(Overloaded, match=r"1 draining, 1 queue_full"):
        pick(full, policy=policy)
    with pytest.raises(ReplicaLost, match="1 draining"):
        pick(view_of(build.snapshot(draining=True)))
    with pytest.raises(ReplicaLost, match="no replica is ready"):
        pick(ClusterView())


def test_the_queue_bound_sees_what_was_just_sent(build) -> None:
    view = view_of(build.snapshot("r0", queued=1))
    view.sent("q1", "r0", "acme", [], NOW + 1)
    with pytest.raises(Overloaded):
        pick(view, policy=PickingPolicy(max_queued=2))


def test_ties_go_by_rendezvous_whatever_the_order_of_arrival(build) -> None:
    snapshots = [build.snapshot(f"r{i}") for i in range(5)]
    forward, backward = view_of(*snapshots), view_of(*reversed(snapshots))
    chosen = set()
    for name in "abcdefghijklmnop":
        choice = pick(forward, (name,))
        assert choice == pick(backward, (name,))
        chosen.add(choice.replica_id)
    assert len(chosen) > 2


class _Wild:
    name = "load"

    def score(self, replicas, request):
        return [7.0, float("nan")]


def test_scores_are_clamped(build) -> None:
    picker = Picker(PickingPolicy(), scorers=[_Wild()])
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    explanation = picker.explain(view, PickRequest(()), NOW)
    assert [c.score for c in explanation.candidates] == [1.0, 0.0]


def test_a_scorer_without_a_weight_is_refused() -> None:
    class Unknown(_Wild):
        name = "vibes"

    with pytest.raises(ValueError, match="vibes"):
        Picker(PickingPolicy(), scorers=[Unknown()])


def test_weights_decide(build) -> None:
    view = view_of(
        build.snapshot("r0", resident=(build.resident("a"),), running=2, kv_free=10),
        build.snapshot("r1", running=1),
    )
    view.sent("q1", "r1", "globex", [], NOW - 1)
    nothing = dict.fromkeys(ScorerWeights.model_fields, 0.0)
    by = {
        name: pick(
            view, policy=PickingPolicy(weights=ScorerWeights(**nothing | weights)), tenant="acme"
        ).replica_id
        for name, weights in {
            "residency": {"residency": 1},
            "load": {"load": 1},
            "tenants": {"tenants": 1},
            "kv": {"kv": 1},
        }.items()
    }
    assert by == {"residency": "r0", "load": "r1", "tenants": "r0", "kv": "r1"}


def test_a_tenant_keeps_out_of_anothers_way_while_it_is_remembered(build) -> None:
    ready = (build.resident("a"),)
    view = view_of(*(build.snapshot(name, resident=ready) for name in ("r0", "r1")))
    mine = pick(view, tenant="acme").replica_id
    other = ({"r0", "r1"} - {mine}).pop()
    view.sent("q1", mine, "globex", [], NOW)
    view.finished("q1")
    assert pick(view, tenant="acme").replica_id == other
    assert pick(view, tenant="globex").replica_id == mine
    assert pick(view).replica_id == mine
    long_after = NOW + 4 * WINDOW_S
    for name in ("r0", "r1"):
        view.update(build.snapshot(name, resident=ready, at=long_after), long_after)
    assert (
        Picker(PickingPolicy())
        .pick(view, PickRequest(("digest-a",), "acme"), long_after)
        .replica_id
        == mine
    )


def test_a_tenant_goes_to_another_where_its_own_replica_is_full(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    view.sent("q0", "r0", "globex", [], NOW)
    chosen = []
    for index in range(12):
        choice = pick(view, (), tenant="acme")
        chosen.append(choice.replica_id)
        view.sent(f"q{index + 1}", choice.replica_id, "acme", [], NOW + 0.001)
    assert chosen[:3] == ["r1"] * 3
    loads = {replica.replica_id: replica.load for replica in view.replicas(NOW + 1)}
    assert 0 < loads["r1"] - loads["r0"] <= TenantScorer.SLACK + 1
