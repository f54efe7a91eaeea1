"""What the controller takes replicas to have."""

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
