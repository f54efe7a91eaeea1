"""Demand by adapter, copies and the planner, case by case."""

import pytest

from cluster.placement.planning.load import AdapterRate, LoadReport
from cluster.placement.planning.plan import MoveKind, PlanInputs, ReplicaRoom, ResidentCopy
from cluster.placement.planning.planner import plan
from cluster.placement.policy import ClusterPolicy, PlacementPolicy


def load_of(base: float = 0.0, **per_second: float) -> LoadReport:
    total = sum(per_second.values()) + base
    return LoadReport(
        total=total,
        falling=total,
        adapters=tuple(
            AdapterRate(f"digest-{name}", rate, rate, (("acme", rate),))
            for name, rate in sorted(per_second.items())
            if rate > 0
        ),
    )


def room(
    replica_id: str, *resident: str, slots: int = 4, nbytes: int = 1000, desired=None, busy=()
):
    return ReplicaRoom(
        replica_id=replica_id,
        slots=slots,
        bytes_limit=nbytes,
        resident=tuple(ResidentCopy(f"digest-{n}", 10, True, n in busy) for n in resident),
        desired=tuple(f"digest-{n}" for n in (resident if desired is None else desired)),
    )


def make(build, rooms, load, *, names="abcdefgh", sizes=None, pins=None, previous=None, **kwargs):
    placement = PlacementPolicy(
        **{"spare_share": 0.0, "max_moves_per_tick": 100, **kwargs.pop("policy", {})}
    )
    return plan(
        PlanInputs(
            replicas=tuple(rooms),
            adapters=tuple(build.info(n, nbytes=(sizes or {}).get(n, 10)) for n in names),
            load=load,
            policy=ClusterPolicy(placement=placement),
            pins={f"digest-{n}": k for n, k in (pins or {}).items()},
            previous={f"digest-{n}": k for n, k in (previous or {}).items()},
            **kwargs,
        )
    )


def copies(planned) -> dict[str, int]:
    return {target.alias: target.copies for target in planned.copies}


def placed(planned) -> dict[str, int]:
    counts: dict[str, int] = {}
    for digests in planned.desired.values():
        for digest in digests:
            counts[digest[7:]] = counts.get(digest[7:], 0) + 1
    return counts


def test_a_hot_adapter_gets_a_second_copy_with_the_reason(build) -> None:
    rooms = [room("r0", "a", "b"), room("r1", "c")]
    planned = make(
        build,
        rooms,
        load_of(a=4.2, b=0.9, c=0.8),
        previous={"a": 1, "b": 1, "c": 1},
    )
    assert copies(planned) == {"a": 2, "b": 1, "c": 1}
    (move,) = planned.moves
    assert (move.replica_id, move.digest, move.kind) == ("r1", "digest-a", MoveKind.PREFETCH)
    assert move.reason == "copies 1 -> 2: 4.2 req/s is 71% of load; tenant acme"


def test_two_equal_adapters_need_one_copy_each_on_two_replicas(build) -> None:
    planned = make(build, [room("r0"), room("r1")], load_of(a=1.0, b=1.0))
    assert copies(planned) == {"a": 1, "b": 1}
    assert {len(desired) for desired in planned.desired.values()} == {1}


def test_base_requests_take_their_share_of_the_replicas(build) -> None:
    planned = make(build, [room("r0"), room("r1")], load_of(a=1.0, base=3.0))
    assert copies(planned) == {"a": 1}


@pytest.mark.parametrize(
    ("share", "before", "after"),
    [(0.5, 1, 1), (0.56, 1, 1), (0.59, 1, 2), (0.5, 2, 2), (0.44, 2, 2), (0.42, 2, 1)],
)
def test_copies_change_only_beyond_the_tolerance(build, share, before, after) -> None:
    planned = make(
        build,
        [room("r0", "a"), room("r1", "a" if before == 2 else "b")],
        load_of(a=share, base=1 - share),
        previous={"a": before},
    )
    assert copies(planned)["a"] == after


def test_a_copy_is_not_taken_away_during_the_cooldown(build) -> None:
    inputs = ([room("r0", "a"), room("r1", "a")], load_of(a=0.1, base=0.9))
    kept = make(build, *inputs, previous={"a": 2}, cooling=frozenset({"digest-a"}))
    assert copies(kept) == {"a": 2}
    assert "changed recently" in kept.copies[0].reason
    assert copies(make(build, *inputs, previous={"a": 2})) == {"a": 1}


def test_pins_hold_without_load_and_beyond_max_copies(build) -> None:
    planned = make(
        build,
        [room("r0", slots=1), room("r1", slots=1), room("r2", slots=1)],
        load_of(b=5.0),
        pins={"a": 2},
        policy={"max_copies": 1},
    )
    assert placed(planned) == {"a": 2, "b": 1}


def test_a_pin_displaces_what_only_has_load(build) -> None:
    planned = make(
        build,
        [room("r0", "b", slots=1)],
        load_of(b=9.0),
        pins={"a": 1},
        previous={"b": 1},
    )
    assert placed(planned) == {"a": 1}
    assert [(m.kind, m.digest) for m in planned.moves] == [
        (MoveKind.EVICT, "digest-b"),
        (MoveKind.PREFETCH, "digest-a"),
    ]
    assert planned.moves[0].reason == "room for a"
    assert planned.unplaced[0][0] == "digest-b"


def test_bytes_are_capacity_too(build) -> None:
    planned = make(
        build,
        [room("r0", nbytes=100), room("r1", nbytes=50)],
        load_of(a=1.0, b=1.0, c=1.0),
        sizes={"a": 80, "b": 40, "c": 200},
    )
    assert placed(planned) == {"a": 1, "b": 1}
    assert planned.unplaced == (
        ("digest-c", "its 200 bytes are more than a replica has for adapters"),
    )


def test_nothing_is_evicted_while_there_is_room(build) -> None:
    planned = make(build, [room("r0", "b", "c", slots=4)], load_of(a=1.0), previous={"b": 1})
    assert {m.kind for m in planned.moves} == {MoveKind.PREFETCH}
    assert planned.desired["r0"] == ("digest-a", "digest-b", "digest-c")


def test_a_busy_adapter_is_never_evicted(build) -> None:
    rooms = [room("r0", "b", "c", slots=2, desired=(), busy=("b", "c"))]
    planned = make(build, rooms, load_of(a=9.0))
    assert planned.moves == ()
    assert planned.unplaced[0][0] == "digest-a"


def test_an_idle_adapter_gives_way_where_the_rest_is_busy(build) -> None:
    rooms = [room("r0", "b", "c", slots=2, desired=("b",), busy=("c",))]
    planned = make(build, rooms, load_of(a=1.0))
    assert planned.desired["r0"] == ("digest-a",)
    assert [(m.kind, m.digest) for m in planned.moves] == [
        (MoveKind.EVICT, "digest-b"),
        (MoveKind.PREFETCH, "digest-a"),
    ]


def test_a_hotter_adapter_loaded_on_demand_keeps_its_slot(build) -> None:
    rooms = [room("r0", "b", slots=2, desired=())]
    policy = {"spare_share": 0.5}
    cold = make(build, rooms, load_of(a=0.1, b=9.0), policy=policy)
    assert placed(cold) == {"b": 1}
    full = [room("r0", "b", "c", slots=2, desired=("b",))]
    planned = make(build, full, load_of(a=0.1, b=9.0, c=8.0), previous={"b": 1}, policy=policy)
    assert planned.moves == ()


def test_what_replicas_loaded_on_demand_is_adopted_without_a_move(build) -> None:
    planned = make(build, [room("r0", "a", desired=()), room("r1")], load_of(a=1.0, base=1.0))
    assert planned.moves == ()
    assert planned.desired["r0"] == ("digest-a",)


def test_moves_stay_within_the_budget_and_the_worthiest_go_first(build) -> None:
    planned = make(
        build,
        [room("r0", slots=8), room("r1", slots=8)],
        load_of(a=1.0, b=2.0, c=3.0, d=4.0),
        policy={"max_moves_per_tick": 2},
    )
    assert placed(planned) == {"c": 1, "d": 1}
    assert {reason for _, reason in planned.unplaced} == {
        "waits for the next tick: move budget spent"
    }


def test_a_failed_place_is_avoided(build) -> None:
    rooms = [room("r0"), room("r1")]
    usual = make(build, rooms, load_of(a=1.0, base=1.0))
    (home,) = [r for r, desired in usual.desired.items() if desired]
    avoid = frozenset({(home, "digest-a")})
    other = make(build, rooms, load_of(a=1.0, base=1.0), avoid=avoid)
    assert other.desired[home] == ()
    assert placed(other) == {"a": 1}
    nowhere = frozenset({("r0", "digest-a"), ("r1", "digest-a")})
    assert make(build, rooms, load_of(a=1.0, base=1.0), avoid=nowhere).unplaced == (
        ("digest-a", "no replica is left to try: prefetch failed recently"),
    )


def test_new_copies_do_not_pile_up_on_one_replica(build) -> None:
    rooms = [room(f"r{i}", slots=8) for i in range(4)]
    planned = make(build, rooms, load_of(**dict.fromkeys("abcdefgh", 1.0)))
    assert sorted(len(desired) for desired in planned.desired.values()) == [2, 2, 2, 2]


def test_without_replicas_there_is_nothing_to_plan(build) -> None:
    planned = make(build, [], load_of(a=1.0))
    assert (planned.desired, planned.moves) == ({}, ())
