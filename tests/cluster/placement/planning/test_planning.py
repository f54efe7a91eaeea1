"""The planner, case by case."""

from dataclasses import replace

import pytest

from cluster.placement.cost.model import StepCost
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.planning import reasons
from cluster.placement.planning.plan import ChurnLeft, PlacedFor
from cluster.placement.planning.planner import plan
from cluster.placement.planning.rules import PlanningRules
from tests.support.planning_cases import (
    demand_of,
    fetched,
    follow,
    inputs_of,
    planned_set,
    rate_of,
    released,
    room_of,
)


def test_what_demand_brought_in_is_kept_without_a_move() -> None:
    rooms = [room_of("r0", "a", desired=""), room_of("r1")]
    planned = plan(inputs_of(rooms, demand_of(a=1.0)))
    assert planned.moves == ()
    assert planned.desired == {"r0": ("a",), "r1": ()}
    assert planned.kept == {"r0": {"a"}, "r1": frozenset()}
    assert planned_set(planned, "a").rule is PlacedFor.KEPT


def test_what_nobody_has_is_left_to_demand() -> None:
    planned = plan(inputs_of([room_of("r0"), room_of("r1")], demand_of(a=1.0)))
    assert (planned.moves, planned.desired) == ((), {"r0": (), "r1": ()})
    assert planned_set(planned, "a").rule is PlacedFor.DEMAND


def test_a_set_is_kept_whole_or_not_at_all() -> None:
    demand = demand_of(rate_of("acme", "ab", 1.0))
    halves = [room_of("r0", "a", desired=""), room_of("r1", "b", desired="")]
    assert plan(inputs_of(halves, demand)).desired == {"r0": (), "r1": ()}
    whole = [room_of("r0", "ab", desired=""), room_of("r1", "b", desired="")]
    assert plan(inputs_of(whole, demand)).desired == {"r0": ("a", "b"), "r1": ()}


def test_the_densest_sets_are_kept_and_a_share_is_left_to_demand() -> None:
    rooms = [room_of("r0", "abcd", desired="")]
    planned = plan(inputs_of(rooms, demand_of(a=1.0, b=2.0, c=3.0, d=4.0)))
    assert planned.desired == {"r0": ("d", "c", "b")}


def test_a_pair_weighs_against_both_of_its_places() -> None:
    rooms = [room_of("r0", "abc", desired="", slots=3)]
    both = demand_of(rate_of("acme", "ab", 1.5), c=1.0)
    assert plan(inputs_of(rooms, both)).desired == {"r0": ("c",)}
    denser = demand_of(rate_of("acme", "ab", 2.5), c=1.0)
    assert plan(inputs_of(rooms, denser)).desired == {"r0": ("a", "b")}


@pytest.mark.parametrize(("rate", "kept"), [(1.2, "a"), (1.3, "b")])
def test_what_is_kept_gives_way_only_to_what_is_clearly_denser(rate, kept) -> None:
    rooms = [room_of("r0", "ab", desired="a", slots=2)]
    planned = plan(inputs_of(rooms, demand_of(a=1.0, b=rate)))
    assert planned.desired == {"r0": (kept,)}
    assert released(planned) == ([] if kept == "a" else [("r0", "a")])


def test_a_big_adapter_is_kept_only_if_it_saves_more_than_the_small_ones_in_its_room() -> None:
    sizes = {"a": 600, **dict.fromkeys("bcdefg", 100)}
    rooms = [room_of("r0", "a", slots=10), room_of("r1", "bcdefg", slots=10)]
    rates = {"a": 1.2, **dict.fromkeys("bcdefg", 1.0)}
    one = inputs_of([rooms[1]], demand_of(**rates), sizes=sizes, names="abcdefg")
    assert plan(one).desired == {"r1": tuple("bcdefg")}


def test_pins_come_first_and_are_fetched() -> None:
    rooms = [room_of("r0", "bc", slots=2), room_of("r1", slots=2)]
    planned = plan(inputs_of(rooms, demand_of(b=5.0, c=4.0), pins={"a": 2}))
    assert planned.desired == {"r0": ("a",), "r1": ("a",)}
    assert fetched(planned) == [("r0", "a"), ("r1", "a")]
    assert planned.moves[0].reason == "pinned: no demand, 0.0 MB"
    assert planned_set(planned, "a").pinned == 2


def test_pins_beyond_all_pools_are_named() -> None:
    planned = plan(inputs_of([room_of("r0", slots=1)], demand_of(), pins={"a": 1, "b": 1}))
    assert planned.desired == {"r0": ("a",)}
    assert planned.unplaced == ((("b",), "no room: what is promised or in use takes all"),)


@pytest.mark.parametrize(
    ("rooms", "sizes", "why"),
    [
        ([room_of("r0", nbytes=9)], {}, "too large: its 10 bytes are more than a replica has"),
        ([room_of("r0", slots=1, busy="b", resident="b")], {}, "no room: what is promised or in"),
    ],
)
def test_a_promise_without_a_place_says_why(rooms, sizes, why) -> None:
    planned = plan(inputs_of(rooms, demand_of(), pins={"a": 1}, sizes=sizes))
    ((members, reason),) = planned.unplaced
    assert members == ("a",)
    assert reason.startswith(why)


def test_a_failed_place_is_avoided() -> None:
    rooms = [room_of("r0"), room_of("r1")]
    planned = plan(inputs_of(rooms, demand_of(), pins={"a": 1}, avoid=frozenset({("r0", "a")})))
    assert fetched(planned) == [("r1", "a")]
    nowhere = frozenset({("r0", "a"), ("r1", "a")})
    planned = plan(inputs_of(rooms, demand_of(), pins={"a": 1}, avoid=nowhere))
    assert planned.unplaced == ((("a",), "failed: no replica is left to try"),)


def test_what_only_a_lost_replica_had_is_fetched_whole_where_least_is_to_do() -> None:
    demand = demand_of(rate_of("acme", "ab", 1.0), c=2.0)
    rooms = [room_of("r0", "c"), room_of("r1")]
    planned = plan(inputs_of(rooms, demand, lost="ab"))
    assert fetched(planned) == [("r1", "a"), ("r1", "b")]
    assert planned_set(planned, "a", "b").rule is PlacedFor.LOST
    assert planned.kept == {"r0": {"c"}, "r1": frozenset()}
    again = plan(follow(inputs_of(rooms, demand, lost="ab"), planned))
    assert again.moves == ()


def test_more_work_than_a_replica_is_to_do_gets_another_copy_where_that_pays() -> None:
    rooms = [room_of("r0", "a"), room_of("r1")]
    demand = demand_of(a=10.0)  # a whole replica's time
    planned = plan(inputs_of(rooms, demand))
    assert planned_set(planned, "a").copies == 2
    assert fetched(planned) == [("r1", "a")]
    assert planned.moves[0].reason.startswith("another copy: 10/s, work 1 of a replica for 2")
    asked_often = [rooms[0], room_of("r1", age_s=60.0)]
    assert plan(inputs_of(asked_often, demand)).moves == (), "requests bring it in and keep it"


def test_one_adapter_at_one_request_a_second_has_one_copy_on_a_hundred_replicas() -> None:
    rooms = [room_of("r0", "a"), *(room_of(f"r{n}") for n in range(1, 100))]
    planned = plan(inputs_of(rooms, demand_of(a=1.0)))
    assert planned_set(planned, "a").copies == 1
    assert planned.moves == ()


def test_a_copy_gives_way_only_when_its_work_has_gone_from_both_clocks() -> None:
    rooms = [room_of("r0", "a"), room_of("r1", "ab", slots=2, desired="a")]
    for fast, slow, copies in ((1.0, 8.0, 2), (8.0, 1.0, 2), (1.0, 1.0, 1)):
        demand = demand_of(rate_of("acme", "a", fast, slow), b=0.4)
        planned = plan(inputs_of(rooms, demand, previous={("a",): 2}))
        assert planned_set(planned, "a").copies == copies
        assert len(released(planned)) == 2 - copies
    assert planned.moves[0].reason == "served elsewhere: r0 has it"


def test_more_copies_that_picks_brought_stay_in_room_that_nothing_else_has() -> None:
    spilled = [room_of("r0", "ab"), room_of("r1", "ba", desired="b", slots=3)]
    demand = demand_of(a=1.0, b=1.0)
    kept = plan(inputs_of(spilled, demand))
    assert kept.moves == ()
    assert set(kept.desired["r1"]) == {"a", "b"}
    assert plan(follow(inputs_of(spilled, demand), kept)).moves == ()
    other = [spilled[0], room_of("r1", "bac", desired="ba", slots=3)]
    needed = plan(inputs_of(other, demand_of(a=1.0, b=1.0, c=0.1)))
    assert needed.desired["r1"][0] == "c", "what only it has is placed first"
    assert len(needed.desired["r1"]) == 2


def test_least_copies_are_promised_and_most_copies_are_kept() -> None:
    rooms = [room_of("r0", "a"), room_of("r1"), room_of("r2")]
    planned = plan(inputs_of(rooms, demand_of(a=0.1), rules=PlanningRules(least=2)))
    assert fetched(planned) == [("r1", "a")]
    assert planned.moves[0].promised
    capped = plan(inputs_of(rooms, demand_of(a=30.0), rules=PlanningRules(most=2)))
    assert planned_set(capped, "a").copies == 2


def test_a_new_replica_is_filled_until_the_work_is_even() -> None:
    names = "abcdefgh"
    full = room_of("r0", names, slots=8, desired="")
    inputs = inputs_of([full, room_of("r1", slots=8)], demand_of(**dict.fromkeys(names, 1.0)))
    planned = plan(inputs)
    assert len(fetched(planned)) == 3
    assert {replica for replica, _ in fetched(planned)} == {"r1"}
    moved = {digest for _, digest in fetched(planned)}
    assert moved.isdisjoint(digest for _, digest in released(planned)), "make before break"
    after = follow(inputs, planned)
    settled = plan(after)
    assert set(settled.desired["r1"]) == moved
    assert moved.isdisjoint(settled.desired["r0"][:5]), "what serves elsewhere comes last"
    assert fetched(settled) == []
    assert plan(follow(after, settled)).moves == ()


def test_little_work_is_not_evened_out() -> None:
    rooms = [room_of("r0", "ab"), room_of("r1")]
    assert plan(inputs_of(rooms, demand_of(a=0.05, b=0.05))).moves == ()


def test_what_has_a_place_by_then_is_not_moved_to_even_out_work() -> None:
    demand = demand_of(a=3.0, b=2.0)
    assert fetched(plan(inputs_of([room_of("r0", "ab"), room_of("r1")], demand))) != []
    coming = [room_of("r0", "", coming="ab", desired="ab"), room_of("r1")]
    assert fetched(plan(inputs_of(coming, demand, rules=PlanningRules(target=8.0)))) == []
    rooms = [room_of("r0", "ab"), room_of("r1")]
    assert fetched(plan(inputs_of(rooms, demand, pins={"a": 1, "b": 1}))) == []


def test_answers_are_evened_out_by_how_they_slow_each_other_down() -> None:
    def evened(room, slowing: float, **others: float) -> list[tuple[str, str]]:
        answers = [rate_of("acme", n, 0.25)._replace(generated_tokens=40.0) for n in "ab"]
        work = WorkModel(StepCost(0.036 - 16 * slowing, 0.0, slowing, 0.0, 0.0, 0.0), 16, 16, {})
        inputs = inputs_of([room_of("r0", "ab"), room], demand_of(*answers, **others))
        return fetched(plan(replace(inputs, work=work)))

    assert evened(room_of("r1"), slowing=0.0) == [], "the same work, whatever runs with it"
    assert evened(room_of("r1"), slowing=0.001) == [("r1", "a")]
    full = room_of("r1", "cde", slots=3, busy="c")
    assert evened(full, slowing=0.001) == [("r1", "a")]
    assert evened(full, slowing=0.001, d=0.19, e=0.19) == [], "what goes saves more"


def test_a_set_is_not_moved_again_within_the_payback_time() -> None:
    rooms = [room_of("r0", "ab"), room_of("r1")]
    inputs = inputs_of(rooms, demand_of(a=2.0, b=2.0))
    assert fetched(plan(inputs)) == [("r1", "a")]
    assert fetched(plan(replace(inputs, moved=frozenset("a")))) == [("r1", "b")]
    assert fetched(plan(replace(inputs, moved=frozenset("ab")))) == []


def test_moves_stay_within_the_churn_and_promises_have_more() -> None:
    rooms = [room_of("r0", "abcd"), room_of("r1")]
    demand = demand_of(**dict.fromkeys("abcd", 4.0))
    assert len(fetched(plan(inputs_of(rooms, demand)))) == 2
    tight = ChurnLeft(10, 40, unused=False)
    assert len(fetched(plan(inputs_of(rooms, demand, churn=tight)))) == 1
    pins = dict.fromkeys("efgh", 1)
    pinned = plan(inputs_of(rooms, demand, churn=ChurnLeft(0, 30, unused=False), pins=pins))
    assert len(fetched(pinned)) == 3
    assert pinned.unplaced == ((("h",), "waits: the minute's churn is spent"),)
    large = ChurnLeft(1, 1, unused=True)
    assert len(fetched(plan(inputs_of(rooms, demand, churn=large)))) == 1


def test_what_comes_must_be_denser_than_what_goes() -> None:
    busy_one = room_of("r0", "abcd", slots=5)
    other = room_of("r1", "ef", slots=2, desired="")
    close = demand_of(a=4.0, b=4.0, c=4.0, d=4.0, e=3.5, f=3.5)
    assert fetched(plan(inputs_of([busy_one, other], close))) == []
    far = demand_of(a=4.0, b=4.0, c=4.0, d=4.0, e=0.5, f=0.4)
    assert fetched(plan(inputs_of([busy_one, other], far))) == [("r1", "a")]


def test_a_tenant_keeps_what_it_is_owed_beside_a_busy_one() -> None:
    rooms = [room_of("r0", "abcde", slots=5, desired="")]
    busy = dict.fromkeys("abcd", 9.0)
    quiet = rate_of("globex", "e", 0.01)
    planned = plan(inputs_of(rooms, demand_of(quiet, **busy)))
    assert "e" in planned.desired["r0"]
    assert planned_set(planned, "e").rule is PlacedFor.OWED
    assert "e" not in plan(inputs_of(rooms, demand_of(e=0.01, **busy))).desired["r0"]


def test_weights_share_the_pools() -> None:
    rooms = [room_of("r0", "abcdefgh", slots=9)]
    mine = [rate_of("acme", name, 9.0) for name in "abcd"]
    theirs = [rate_of("globex", name, 1.0) for name in "efgh"]
    for weight, owed in ((1.0, "efgh"), (1 / 3, "ef"), (1 / 7, "e")):
        rules = PlanningRules(weights={"globex": weight})
        planned = plan(inputs_of(rooms, demand_of(*mine, *theirs), rules=rules))
        found = [one.members[0] for one in planned.sets if one.rule is PlacedFor.OWED]
        assert [name for name in found if name in "efgh"] == list(owed)


def test_what_the_catalog_lists_no_more_is_let_go() -> None:
    planned = plan(inputs_of([room_of("r0", "az")], demand_of(a=1.0, z=1.0)))
    assert planned.desired == {"r0": ("a",)}
    (move,) = planned.moves
    assert (move.digest, move.reason) == ("z", "not listed: the catalog has it no more")


def test_without_replicas_there_is_nothing_to_plan() -> None:
    planned = plan(inputs_of([], demand_of(a=1.0), pins={"b": 1}))
    assert (planned.desired, planned.moves) == ({}, ())


def test_a_reason_has_its_figures() -> None:
    demand = demand_of(rate_of("acme", "ab", 3.0), rate_of("globex", "ab", 1.0))
    planned = plan(inputs_of([room_of("r0", "ab")], demand))
    assert reasons.of_set(planned_set(planned, "a", "b")) == (
        "owed on r0: 4/s, 4 s/s saved for 0.5 of a pool, work 0.4 of a replica; "
        "acme 75%, globex 25%"
    )
