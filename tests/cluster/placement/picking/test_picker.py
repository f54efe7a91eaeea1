"""Filters, homes, ties and explanations."""

import random

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import ReplicaId, TenantId
from cluster.domain.replica import OTHERS
from cluster.errors import Overloaded, ReplicaLost, RequestError
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import STALE_AFTER_S, PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy
from cluster.placement.rendezvous import order

NOW = 100.0
PLAIN = CostModel(step=StepCost(0.022, 0.0, 0.001, 0.0, 0.0, 0.0))


def view_of(*snapshots, model: CostModel = PLAIN) -> ClusterView:
    view = ClusterView()
    view.follow(FrontOrders(0, 0, model=model))
    for snapshot in snapshots:
        assert view.update(snapshot, NOW)
    return view


def request(*names: str, **others) -> PickRequest:
    return PickRequest(tuple(f"digest-{n}" for n in names), **others)


def pick(view, *names: str, policy=None, now: float = NOW, **others):
    return Picker(policy or PickingPolicy()).pick(view, request(*names, **others), now)


def explain(view, *names: str, policy=None, now: float = NOW, **others):
    return Picker(policy or PickingPolicy()).explain(view, request(*names, **others), now)


def test_the_replica_with_the_whole_mixture_wins_over_parts(build) -> None:
    choice = pick(
        view_of(
            build.snapshot("r0", resident=(build.resident("a"),)),
            build.snapshot("r1", resident=(build.resident("a"), build.resident("b")), running=1),
            build.snapshot("r2", resident=(build.resident("b"),)),
        ),
        "a",
        "b",
    )
    assert (choice.replica_id, choice.whole, choice.decided_by) == ("r1", True, "cost")
    assert [name for name, _ in choice.terms] == ["queue", "load", "prefill", "harm"]
    assert choice.considered == 3
    assert choice.predicted_ttft == pytest.approx(0.023)
    assert choice.explanation is None


def test_a_replica_with_free_places_keeps_its_adapters_requests(build) -> None:
    """A load elsewhere would take longer than the busier steps."""
    big = build.resident("a", nbytes=10_000_000)
    busy = build.snapshot("r0", resident=(big,), running=10)
    assert pick(view_of(busy, build.snapshot("r1"), build.snapshot("r2")), "a").replica_id == "r0"


def test_a_replica_whose_wait_is_longer_than_a_load_is_left(build) -> None:
    full = build.snapshot("r0", resident=(build.resident("a"),), running=16, queued=20)
    view = view_of(full, build.snapshot("r1", running=12))
    assert pick(view, "a").replica_id == "r1"


def test_the_guard_holds_where_the_model_is_wrong(build) -> None:
    wrong = CostModel(step=StepCost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    full = build.snapshot("r0", resident=(build.resident("a"),), running=16, queued=20)
    pick_ = explain(view_of(full, build.snapshot("r1", running=1), model=wrong), "a")
    assert (pick_.chosen, pick_.decided_by) == ("r1", "guard")
    assert pick_.refusals == {"guard": 1}
    assert [c.refused_by for c in pick_.candidates] == [None, "guard"]
    assert all(c.cost is not None for c in pick_.candidates)


def test_a_burst_spreads_before_any_replica_has_spoken(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    chosen = []
    for index in range(20):
        choice = pick(view)
        chosen.append(choice.replica_id)
        view.sent(f"q{index}", choice.replica_id, request(), NOW + 0.001)
    assert 8 <= chosen.count("r0") <= 12


def test_draining_replicas_get_nothing(build) -> None:
    view = view_of(build.snapshot("r0", draining=True), build.snapshot("r1", running=14))
    assert pick(view).replica_id == "r1"


def test_leaving_replicas_get_something_only_where_none_stays(build) -> None:
    view = view_of(build.snapshot("r0"), build.snapshot("r1", running=14))
    view.follow(FrontOrders(0, 0, draining=frozenset({ReplicaId("r0")})))
    assert pick(view).replica_id == "r1"
    view.follow(FrontOrders(0, 0, draining=frozenset({ReplicaId("r0"), ReplicaId("r1")})))
    assert pick(view).replica_id == "r0", "they serve, and nobody knows when another one will"


def test_silent_replicas_are_a_last_resort(build) -> None:
    later = NOW + STALE_AFTER_S + 0.1
    view = view_of(build.snapshot("r0", resident=(build.resident("a"),)), build.snapshot("r1"))
    view.update(build.snapshot("r1", running=9, sequence=1), later)
    assert pick(view, "a", now=later).replica_id == "r1"
    assert pick(view, "a", now=NOW + STALE_AFTER_S - 0.1).replica_id == "r0"
    alone = explain(view_of(build.snapshot("r0")), now=later)
    assert (alone.chosen, alone.decided_by) == ("r0", "random")


def test_a_word_on_the_load_is_a_word(build) -> None:
    later = NOW + STALE_AFTER_S + 0.1
    view = view_of(build.snapshot("r0"))
    view.hear_load("r0", 1, 0, later - 0.2)
    assert explain(view, now=later).decided_by == "cost"


def test_the_better_of_two_where_soft_filters_leave_nobody(build) -> None:
    later = NOW + STALE_AFTER_S + 0.1
    view = view_of(build.snapshot("r0", running=16, queued=9), build.snapshot("r1"))
    assert pick(view, now=later).replica_id == "r1"


def test_a_replica_that_could_not_load_the_adapter_is_avoided(build) -> None:
    failed = build.snapshot("r0", resident=(build.resident("a", AdapterState.FAILED),))
    view = view_of(failed, build.snapshot("r1", running=12))
    assert pick(view, "a").replica_id == "r1"
    assert explain(view, "a").refusals == {"load_failed": 1}
    assert explain(view, "b").refusals == {}
    assert pick(view_of(failed), "a").replica_id == "r0"


def test_a_replica_whose_pins_leave_no_slot_is_avoided(build) -> None:
    full = build.snapshot("r0", slots=1, resident=(build.resident("a", pinned=True),))
    view = view_of(full, build.snapshot("r1", running=12, slots=1))
    assert pick(view, "b").replica_id == "r1"
    assert explain(view, "b").refusals == {"pins": 1}
    assert pick(view, "a").replica_id == "r0"


def test_a_retry_avoids_the_replica_that_failed(build) -> None:
    view = view_of(build.snapshot("r0", resident=(build.resident("a"),)), build.snapshot("r1"))
    assert pick(view, "a", exclude=("r0",)).replica_id == "r1"
    with pytest.raises(ReplicaLost, match="2 excluded"):
        pick(view, exclude=("r0", "r1"))


def test_full_queues_are_overload_and_nobody_is_a_lost_replica(build) -> None:
    policy = PickingPolicy(max_queued=2)
    full = view_of(build.snapshot("r0", queued=2), build.snapshot("r1", draining=True))
    with pytest.raises(Overloaded, match=r"1 draining, 1 queue_full"):
        pick(full, policy=policy)
    with pytest.raises(ReplicaLost, match="1 draining"):
        pick(view_of(build.snapshot(draining=True)))
    with pytest.raises(ReplicaLost, match="no replica is ready"):
        pick(ClusterView())
    sent = view_of(build.snapshot("r0", queued=1))
    sent.sent("q1", "r0", request(), NOW)
    with pytest.raises(Overloaded):
        pick(sent, policy=policy)


def test_a_full_queue_takes_a_tenant_that_has_nothing_there(build) -> None:
    policy, flood = PickingPolicy(max_queued=2), ("flood", 900)
    view = view_of(build.snapshot("r0", queued=2, backlog=(flood,)))
    for tenant in (None, "flood"):
        with pytest.raises(Overloaded):
            pick(view, policy=policy, tenant=tenant)
    assert pick(view, policy=policy, tenant="quiet").replica_id == "r0"
    view.sent("q1", "r0", request(tenant="quiet"), NOW)
    with pytest.raises(Overloaded):
        pick(view, policy=policy, tenant="quiet")
    crowd = view_of(build.snapshot("r0", queued=2, backlog=(flood, (OTHERS, 100))))
    with pytest.raises(Overloaded):
        pick(crowd, policy=policy, tenant="quiet")


def test_a_prompt_goes_where_its_context_fits(build) -> None:
    view = view_of(
        build.snapshot("r0", max_model_len=128), build.snapshot("r1", max_model_len=256, running=9)
    )
    assert pick(view, prompt_tokens=100, expected_tokens=28).replica_id == "r0"
    assert pick(view, prompt_tokens=100, expected_tokens=29).replica_id == "r1"
    with pytest.raises(ReplicaLost, match="2 context"):
        pick(view, prompt_tokens=1000)


def test_what_is_weighed_inside_the_model_goes_where_the_engine_can(build) -> None:
    without = build.snapshot("r0", gates=False)
    view = view_of(without, build.snapshot("r1", running=9))
    assert pick(view).replica_id == "r0"
    assert pick(view, gates=True).replica_id == "r1"
    with pytest.raises(RequestError, match="weighs adapters inside the model"):
        pick(view_of(without), gates=True)
    draining = build.snapshot("r1", draining=True)
    with pytest.raises(ReplicaLost, match="1 draining, 1 no_gates"):
        pick(view_of(without, draining), gates=True)


def test_ties_go_by_rendezvous_whatever_the_order_of_arrival(build) -> None:
    snapshots = [build.snapshot(f"r{i}") for i in range(5)]
    forward, backward = view_of(*snapshots), view_of(*reversed(snapshots))
    for name in "abcdefghijklmnop":
        choice = pick(forward, name)
        assert choice == pick(backward, name)
        assert choice.replica_id == order(f"digest-{name}", [f"r{i}" for i in range(5)])[0]
        assert choice.decided_by == "home"


def test_of_equal_replicas_the_placed_one_is_taken_and_the_one_with_the_fewest_adapters(
    build,
) -> None:
    home, second = order("digest-a", ("r0", "r1"))
    there = (build.resident("a"), build.resident("b"))
    for desired, chosen in (
        ({}, home),
        ({second: ("a",)}, second),
        ({home: ("a", "b"), second: ("a",)}, second),
        ({home: ("a",), second: ("a",)}, home),
        ({second: ("b",)}, home),
    ):
        view = view_of(
            *(
                build.snapshot(name, resident=there, desired=desired.get(name, ()))
                for name in (home, second)
            )
        )
        assert pick(view, "a").replica_id == chosen
    home, second = order("", ("r0", "r1"))
    view = view_of(build.snapshot(home, desired=("a",)), build.snapshot(second))
    assert pick(view).replica_id == home, "without adapters the plan says nothing"


def test_a_set_that_nobody_has_goes_to_one_of_its_homes(build) -> None:
    names = [f"r{i}" for i in range(5)]
    home, second, *others = order("digest-a", names)
    view = view_of(*(build.snapshot(name, running=8 if name == home else 0) for name in names))
    assert pick(view, "a").replica_id == second
    full = {home: 16, second: 16}
    queued = {name: build.snapshot(name, running=full.get(name, 3), queued=8) for name in names}
    queued |= {name: build.snapshot(name, running=3) for name in others}
    assert pick(view_of(*queued.values()), "a").replica_id in others
    idle = tuple(build.resident(x) for x in "wxyz")
    view = view_of(*(build.snapshot(n, resident=idle if n != others[0] else ()) for n in names))
    assert pick(view, "a").replica_id == others[0]


def test_a_home_with_free_places_and_much_to_compute_is_left_for_an_idle_replica(build) -> None:
    """Its prompts would keep the request waiting for longer than another copy's load takes."""
    names = [f"r{i}" for i in range(5)]
    homes = order("digest-a", names)[:2]
    tokens = ((TenantId("globex"), 8 * 8000),)
    busy = {name: build.snapshot(name, running=8, backlog=tokens) for name in homes}
    view = view_of(*(busy.get(name) or build.snapshot(name) for name in names), model=CostModel())
    choice = pick(view, "a", prompt_tokens=100)
    assert choice.replica_id not in homes
    assert choice.decided_by != "guard"


def test_a_home_is_worth_as_much_waiting_as_a_load_takes(build) -> None:
    names = [f"r{i}" for i in range(5)]
    homes = order("digest-a", names)[:2]
    load_s = CostModel().disk_load.seconds(0)

    def pick_behind(seconds: float) -> str:
        tokens = round(seconds / CostModel().step.per_prefill_token)
        backlog = ((TenantId("globex"), tokens),)
        busy = {name: build.snapshot(name, backlog=backlog) for name in homes}
        found = [busy.get(name) or build.snapshot(name) for name in names]
        return pick(view_of(*found, model=CostModel()), "a", prompt_tokens=10).replica_id

    assert pick_behind(1.9 * load_s) in homes
    assert pick_behind(2.1 * load_s) not in homes


def test_a_set_in_host_memory_alone_stays_with_its_holders_and_homes(build) -> None:
    names = [f"r{i}" for i in range(6)]
    home, second, holder, *_ = order("digest-a", names)
    busy = {home: 3, second: 3, holder: 3}
    view = view_of(*(build.snapshot(name, running=busy.get(name, 0)) for name in names))
    view.set_on_host(ReplicaId(holder), ["digest-a"])
    assert pick(view, "a").replica_id == holder
    assert pick(view, "a", exclude=(holder,)).replica_id == home


def test_a_mixture_is_kept_by_its_rarest_member(build) -> None:
    """Popular members are everywhere, and would let the others scatter."""
    names = [f"r{i}" for i in range(6)]
    first, second = order("digest-a,digest-b", names)[:2]
    popular = (build.resident("a"),)
    running = {first: 3, second: 3}
    view = view_of(*(build.snapshot(n, resident=popular, running=running.get(n, 0)) for n in names))
    assert pick(view, "a", "b").replica_id in (first, second)


def test_a_home_needs_free_slots_only_for_the_members_that_it_has_not(build) -> None:
    names = [f"r{i}" for i in range(6)]
    first, second, *_, last = order("digest-a,digest-b", names)
    resident = {name: (build.resident("a"),) for name in names if name != last}
    running = {first: 3, second: 3}
    view = view_of(
        *(
            build.snapshot(n, slots=2, resident=resident.get(n, ()), running=running.get(n, 0))
            for n in names
        )
    )
    assert pick(view, "a", "b").replica_id in (first, second)


def test_a_copy_in_host_memory_beats_the_home(build) -> None:
    home, other = order("digest-a", ("r0", "r1"))
    view = view_of(build.snapshot("r0"), build.snapshot("r1"))
    assert pick(view, "a").replica_id == home
    view.set_on_host(ReplicaId(other), ["digest-a"])
    assert pick(view, "a").replica_id == other
    view.set_on_host(ReplicaId(other), [])
    assert pick(view, "a").replica_id == home


def test_a_prompt_goes_back_to_where_its_beginning_is(build) -> None:
    model = CostModel()
    view = view_of(build.snapshot("r0"), build.snapshot("r1"), model=model)
    home, other = order("", ("r0", "r1"))
    asked = {"prompt_tokens": 256, "prefix": (11, 12)}
    assert pick(view, **asked).replica_id == home
    view.sent("q1", ReplicaId(other), request(**asked), NOW)
    view.finished("q1")
    assert pick(view, **asked).replica_id == other
    assert pick(view, **asked, policy=PickingPolicy(prefix=False)).replica_id == home
    assert pick(view, prompt_tokens=256, prefix=(13,)).replica_id == home


def test_another_policy_holds_from_the_next_pick_on(build) -> None:
    view = view_of(build.snapshot("r0", queued=5))
    picker = Picker(PickingPolicy())
    assert picker.pick(view, request(), NOW).replica_id == "r0"
    picker.follow(PickingPolicy(max_queued=5))
    with pytest.raises(Overloaded):
        picker.pick(view, request(), NOW)


def test_an_explained_pick_says_what_was_picked(build) -> None:
    view = view_of(*(build.snapshot(f"r{n}", running=n % 7) for n in range(100)))
    choice = pick(view, "a", explain=True)
    assert choice.explanation is not None
    assert choice.explanation.chosen == choice.replica_id
    assert choice.explanation.candidates[0].replica_id == choice.replica_id
    assert choice.explanation.candidates[0].terms == choice.terms
    assert choice.explanation.replicas == 100
    assert len(choice.explanation.candidates) <= 16


@pytest.mark.parametrize("why", ["draining", "leaving", "silent"])
def test_replicas_that_get_nothing_hide_none_of_the_cheap_ones(build, why: str) -> None:
    """They are idle, so they would be the cheapest of all."""
    view = ClusterView()
    gone = [f"gone{number:02d}" for number in range(40)]
    leaving = frozenset(map(ReplicaId, gone)) if why == "leaving" else frozenset()
    view.follow(FrontOrders(0, 0, model=PLAIN, draining=leaving))
    for name in gone:
        heard = NOW - 60 if why == "silent" else NOW
        view.update(build.snapshot(name, draining=why == "draining"), heard)
    for number in range(40):
        view.update(build.snapshot(f"r{number:02d}", running=2 if number == 17 else 14), NOW)
    for seed in range(20):
        picker = Picker(PickingPolicy(), rng=random.Random(seed))
        assert picker.pick(view, request(), NOW).replica_id == "r17"
