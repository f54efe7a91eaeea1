"""Tests what a front knows of its replicas, and what it counts itself."""

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import ReplicaId
from cluster.errors import IntegrityError
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest

NOW = 100.0


def view_of(*snapshots) -> ClusterView:
    view = ClusterView()
    for snapshot in snapshots:
        assert view.update(snapshot, NOW)
    return view


def asked(*names: str, tokens: int = 0) -> PickRequest:
    return PickRequest(tuple(f"digest-{n}" for n in names), "acme", (), tokens)


def loads(view: ClusterView) -> dict[str, int]:
    return {replica.replica_id: replica.load for replica in view.replicas()}


def test_of_two_snapshots_the_higher_sequence_is_newer_whatever_the_clocks_say(build) -> None:
    view = view_of(build.snapshot(running=3, sequence=5))
    assert not view.update(build.snapshot(sequence=4), NOW + 1)
    assert loads(view) == {"r0": 3}
    assert view.update(build.snapshot(running=4, sequence=6), NOW + 1)
    assert loads(view) == {"r0": 4}
    assert view.replicas()[0].age(NOW + 3) == 2.0


def test_a_sent_request_counts_until_the_replica_speaks(build) -> None:
    view = view_of(build.snapshot(sequence=1))
    view.sent("q1", "r0", asked("a", tokens=50), NOW + 1)
    (replica,) = view.replicas()
    assert (replica.load, replica.sent_total, set(replica.incoming)) == (1, 50, {"digest-a"})
    view.check_integrity()

    view.hear_load("r0", 1, 0, NOW + 2)
    assert (replica.load, replica.sent_total) == (1, 50)
    view.update(build.snapshot(sequence=2, running=1), NOW + 3)
    assert (replica.load, replica.sent_total, replica.incoming) == (1, 0, {})
    view.finished("q1")
    view.check_integrity()


def test_a_finished_request_counts_no_more_and_a_resent_one_moves(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    view.sent("q1", "r0", asked(tokens=7), NOW + 1)
    view.sent("q1", "r1", asked(tokens=7), NOW + 2)
    assert loads(view) == {"r0": 0, "r1": 1}
    view.finished("q1")
    view.finished("q1")
    assert loads(view) == {"r0": 0, "r1": 0}
    assert [replica.sent_total for replica in view.replicas()] == [0, 0]
    view.check_integrity()


def test_an_adapter_comes_in_as_long_as_any_of_its_requests_is_on_the_way(build) -> None:
    view = view_of(build.snapshot())
    view.sent("q1", "r0", asked("a"), NOW)
    view.sent("q2", "r0", asked("a"), NOW + 1)
    view.finished("q1")
    (replica,) = view.replicas()
    assert replica.incoming == {"digest-a": NOW + 1}
    view.finished("q2")
    assert replica.incoming == {}


def test_several_fronts_see_the_same_view_and_send_alike(build) -> None:
    view = view_of(build.snapshot(running=1))
    view.follow(FrontOrders(0, 0, fronts=3))
    view.sent("q1", "r0", asked(), NOW + 1)
    assert loads(view) == {"r0": 4}


def test_a_lost_replica_returns_only_with_news(build) -> None:
    view = view_of(build.snapshot("r0", sequence=5), build.snapshot("r1", sequence=5))
    view.sent("q1", "r0", asked("a"), NOW)
    view.set_on_host(ReplicaId("r0"), ["digest-a"])
    view.remove("r0")
    view.remove("r0")
    view.check_integrity()
    assert not view.update(build.snapshot("r0", sequence=5), NOW + 6)
    assert list(loads(view)) == ["r1"]
    assert view.update(build.snapshot("r0", sequence=6), NOW + 6)
    assert view.get("r0").on_host == frozenset()
    assert not view.host_holders.of("digest-a")
    view.finished("q1")
    view.check_integrity()


def test_a_load_between_snapshots_shows_in_the_snapshots(build) -> None:
    view = view_of(build.snapshot(running=1, queued=2))
    assert view.hear_load("r0", 4, 0, NOW + 0.2)
    assert not view.hear_load("r9", 1, 1, NOW)
    (replica,) = view.replicas()
    assert (replica.latest.running, replica.latest.queued, replica.load) == (4, 0, 4)


def test_the_reported_backlog_is_worked_off_as_the_model_says(build) -> None:
    view = view_of(build.snapshot(backlog=(("acme", 1000),)))
    view.follow(FrontOrders(0, 0, model=CostModel(step=StepCost(per_prefill_token=0.001))))
    (replica,) = view.replicas()
    assert replica.tokens_before("acme", 0, 1) == 1000
    view.hear_load("r0", 1, 0, NOW + 0.25)
    assert replica.tokens_before("acme", 0, 1) == pytest.approx(750)
    view.hear_load("r0", 1, 0, NOW + 0.2)  # never more again
    assert replica.tokens_before("acme", 0, 1) == pytest.approx(750)
    view.hear_load("r0", 1, 0, NOW + 9)
    assert replica.tokens_before("acme", 0, 1) == 0


def test_a_tenant_waits_for_its_own_and_one_turn_of_the_others(build) -> None:
    view = view_of(build.snapshot(backlog=(("acme", 100), ("globex", 5000), ("initech", 20))))
    (replica,) = view.replicas()
    assert replica.tokens_before("acme", 50, 1) == 100 + 150 + 20
    assert replica.tokens_before("new", 50, 1) == 50 + 50 + 20
    assert replica.tokens_before("globex", 0, 1) == 5000 + 100 + 20
    assert replica.tokens_before(None, 0, 1) == 5120
    view.sent("q1", "r0", PickRequest((), "acme", (), 60), NOW)
    assert replica.tokens_before("acme", 40, 1) == 160 + 200 + 20


def test_indexes_follow_what_changed(build) -> None:
    view = view_of(
        build.snapshot("r0", resident=(build.resident("a"), build.resident("b"))),
        build.snapshot("r1", resident=(build.resident("a"),)),
    )
    assert {r.replica_id for r in view.holders.of("digest-a")} == {"r0", "r1"}
    both = view.holders.of_all(("digest-a", "digest-b"))
    assert {r.replica_id for r in both} == {"r0"}
    view.update(build.snapshot("r0", resident=(build.resident("c"),), sequence=1), NOW)
    assert {r.replica_id for r in view.holders.of("digest-a")} == {"r1"}
    assert not view.holders.of("digest-b")
    view.check_integrity()


def test_the_cheapest_come_first(build) -> None:
    view = view_of(*(build.snapshot(f"r{n}", running=(7 * n) % 10) for n in range(10)))
    assert [replica.running for replica in view.order] == list(range(10))
    assert [r.running for r in view.order.cheapest(3, set(view.replicas()))] == [0, 1, 2]
    many = view_of(*(build.snapshot(f"r{n:03d}", running=n % 16) for n in range(200)))
    busy = {replica for replica in many.replicas() if replica.running > 8}
    assert {r.running for r in many.order.cheapest(5, busy)} == {9}


def test_an_adapter_on_its_way_keeps_its_start_over_snapshots(build) -> None:
    loading = (build.resident("a", AdapterState.LOADING),)
    view = view_of(build.snapshot(resident=loading, sequence=1))
    view.update(build.snapshot(resident=loading, sequence=2), NOW + 1)
    assert view.replicas()[0].coming == {"digest-a": NOW}


def test_integrity_check_has_both_numbers(build) -> None:
    view = view_of(build.snapshot())
    view.sent("q1", "r0", asked(), NOW)
    view._by_replica.clear()
    with pytest.raises(IntegrityError, match="1 requests sent but 0 indexed"):
        view.check_integrity()
    view = view_of(build.snapshot(resident=(build.resident("a"),)))
    view.holders.change(view.replicas()[0], {"digest-a"}, set())
    with pytest.raises(IntegrityError, match="r0 is not indexed under digest-a"):
        view.check_integrity()


def test_sizes_of_long_gone_adapters_are_not_kept_for_ever(build, monkeypatch) -> None:
    monkeypatch.setattr("cluster.placement.picking.cluster_view._SIZES_KEPT", 10)
    view = ClusterView()
    for number in range(100):
        adapters = (build.resident(f"a{number}"),)
        view.update(build.snapshot(resident=adapters, sequence=number), NOW)
    assert len(view._nbytes) <= 10


def test_a_request_that_names_an_adapter_twice_counts_once(build) -> None:
    view = view_of(build.snapshot())
    view.sent("q1", "r0", asked("a", "a", "b"), NOW)
    view.sent("q2", "r0", asked("b"), NOW + 1)
    view.finished("q1")
    (replica,) = view.replicas()
    assert replica.incoming == {"digest-b": NOW + 1}
    view.update(build.snapshot(sequence=1), NOW + 2)
    view.finished("q2")
    assert (replica.incoming, replica.asking) == ({}, {})
