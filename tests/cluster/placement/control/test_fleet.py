"""Tests of what the controller takes replicas to have, and what it sends them."""

from cluster.placement.control.fleet import Fleet
from cluster.placement.control.history import History
from cluster.placement.control.leadership import Leadership


def test_what_a_replica_loaded_and_evicted_again_is_not_on_its_way(build) -> None:
    fleet = Fleet(Leadership(1), History(10), resend_s=5.0)

    def desired_after(at: float, *resident: str) -> tuple[str, ...]:
        held = tuple(build.resident(name) for name in resident)
        fleet.hear(build.snapshot("r0", sequence=int(at), resident=held), at, at)
        (room,) = fleet.rooms(at, ())
        return room.desired

    assert desired_after(100.0, "a") == ()
    fleet.adopt({"r0": ("digest-a", "digest-b")})
    assert desired_after(101.0, "a") == ("digest-a", "digest-b"), "b is on its way"
    assert desired_after(102.0, "b") == ("digest-b",), "a was there, and has gone"
    assert desired_after(103.0, "a") == ("digest-a",)


def test_pins_are_sent_with_the_placement_and_stay_through_a_new_life(build) -> None:
    fleet = Fleet(Leadership(1), History(10), resend_s=5.0)
    fleet.hear(build.snapshot("r0"), 100.0, 100.0)
    fleet.adopt({"r0": ("digest-a", "digest-b")}, {"digest-a", "digest-z"})
    (told,) = fleet.plans_to_send((), 100.0)
    assert (told.desired, told.pinned) == (("digest-a", "digest-b"), {"digest-a"})
    fleet.adopt({"r0": ("digest-b", "digest-a")}, {"digest-b"})
    (told,) = fleet.plans_to_send((), 101.0)
    assert told.pinned == {"digest-b"}, "another pin is another plan"

    later = Fleet(Leadership(2), History(10), resend_s=5.0)
    held = (build.resident("a"), build.resident("b", pinned=True), build.resident("z", pinned=True))
    desired = {"desired": ("a", "b"), "desired_version": told.version}
    later.hear(build.snapshot("r0", resident=held, **desired), 200.0, 200.0)
    (told,) = later.plans_to_send((), 200.0)
    assert (told.desired, told.pinned) == (("digest-a", "digest-b"), {"digest-b"})


def test_what_is_kept_is_not_asked_for_again_should_it_have_gone(build) -> None:
    fleet = Fleet(Leadership(1), History(10), resend_s=5.0)
    both = (build.resident("a"), build.resident("b"))
    fleet.hear(build.snapshot("r0", resident=both), 100.0, 100.0)
    fleet.adopt({"r0": ("digest-a", "digest-b")}, (), {"r0": frozenset({"digest-a"})})
    (told,) = fleet.plans_to_send((), 100.0)
    assert told.kept == {"digest-a"}
    fleet.acknowledge("r0", told.version)
    for sequence, left, again in ((1, "b", False), (2, "a", True)):
        held = (build.resident(left),)
        fleet.hear(build.snapshot("r0", sequence=sequence, resident=held), 106.0, 106.0)
        assert bool(fleet.plans_to_send((), 106.0)) is again
