"""Starts of replicas: how long they take, and how long one has been starting."""

import pytest

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import ServeReplica
from cluster.placement.control.starts import KEPT, Starts

USUAL_S = 30.0


def starting(name: str, node: str = "") -> ServeReplica:
    return ServeReplica(ReplicaId(name), node, running=False)


def run_start(starts: Starts, name: str, asked: float, placed: float, joined: float) -> None:
    """Let a replica be asked for, get its place and come, with a look in each second."""
    at = asked
    while at < joined:
        starts.observe([starting(name, "n" if at >= placed else "")], (), at)
        at += 1.0
    assert starts.join(ReplicaId(name), joined)


@pytest.fixture
def starts() -> Starts:
    """One owner's, that has looked before anything was asked for."""
    made = Starts()
    made.observe((), (), 0.0)
    return made


def test_starts_that_follow_each_other_are_not_one_long_start(starts) -> None:
    """A replica is asked for every 10 s, and each starts in 30 s: none is ever late."""
    listed, ages = [], []
    for second in range(10, 200, 10):
        if second > 30:
            assert starts.join(listed.pop(0).replica_id, float(second))
        listed.append(starting(f"r{second}", "n"))
        starts.observe(listed, (), float(second))
        ages.append(starts.age(float(second)))
    assert ages == [0.0, 10.0] + [20.0] * 17
    assert set(starts.observed) == {USUAL_S}


def test_a_replacement_that_nobody_asked_for_is_measured_too(starts) -> None:
    starts.observe([starting("r2", "n")], (), 5.0)
    assert starts.age(12.0) == 7.0
    assert starts.join(ReplicaId("r2"), 13.0)
    assert (starts.observed, starts.age(13.0)) == ((8.0,), None)


def test_waiting_for_room_is_no_part_of_a_start(starts) -> None:
    run_start(starts, "r0", asked=10.0, placed=14.0, joined=24.0)
    run_start(starts, "r1", asked=30.0, placed=330.0, joined=340.0)
    assert starts.observed == (14.0, 14.0)


def test_a_first_start_that_waited_is_corrected_by_one_that_did_not(starts) -> None:
    run_start(starts, "r0", asked=10.0, placed=310.0, joined=320.0)
    assert starts.observed == (310.0,), "nothing says yet what of it was waiting"
    run_start(starts, "r1", asked=330.0, placed=334.0, joined=344.0)
    assert starts.observed == (14.0, 14.0)


def test_where_every_start_waits_for_a_node_the_node_belongs_to_it(starts) -> None:
    for number in range(2 * KEPT):
        asked = 1000.0 * (number + 1)
        placed = asked + 90.0 + number
        run_start(starts, f"r{number}", asked=asked, placed=placed, joined=placed + 10.0)
    assert starts.observed == (90.0 + KEPT + 10.0,) * KEPT


def test_one_that_waits_for_room_has_its_start_before_it(starts) -> None:
    run_start(starts, "r0", asked=10.0, placed=14.0, joined=40.0)
    starts.observe([starting("r1")], (), 50.0)
    assert starts.left(USUAL_S, 52.0) == USUAL_S - 2.0
    assert starts.left(USUAL_S, 350.0) == USUAL_S - 4.0
    assert starts.age(350.0) == 300.0, "more are not asked for meanwhile"
    starts.observe([starting("r1", "n")], (), 350.0)
    assert starts.left(USUAL_S, 360.0) == USUAL_S - 14.0


def test_what_began_before_the_first_look_or_never_came_says_nothing() -> None:
    starts = Starts()
    starts.observe([starting("r0", "n"), starting("r1")], (), 100.0)
    assert starts.age(103.0) == 3.0
    assert not starts.join(ReplicaId("r0"), 104.0)
    starts.observe([starting("r2", "n")], (), 105.0)
    starts.observe([ServeReplica(ReplicaId("r3"), "n")], (), 106.0)
    assert starts.age(107.0) is None
    assert not starts.join(ReplicaId("r3"), 107.0)
    assert starts.observed == ()


def test_a_replica_that_serve_has_to_find_again_is_no_start(starts) -> None:
    starts.observe([starting("r0", "n")], {ReplicaId("r0")}, 10.0)
    assert starts.age(20.0) is None


def test_a_later_life_knows_the_starts_and_which_part_was_waiting() -> None:
    earlier, later = Starts(), Starts()
    earlier.restore([[4.0, 8.0], [300.0, 8.0]])
    later.restore(earlier.to_state())
    assert later.observed == (12.0, 12.0)
    for state in (None, {}, [[1.0]], [[1.0, -1.0]], [["1", 2.0]], [[float("nan"), 1.0]]):
        later.restore(state)
    assert later.observed == (12.0, 12.0)
