"""Chooses who leaves when there are to be fewer replicas, and sees that nothing goes with them."""

from collections import Counter
from collections.abc import Collection, Mapping

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.control.fleet import Member


def expected_leavers(
    members: Mapping[ReplicaId, Member], number: int, marked: Collection[ReplicaId]
) -> frozenset[ReplicaId]:
    """Return the ``number`` running replicas that Serve is expected to stop.

    Serve empties the hosts with the fewest replicas first, and of a host's the newest first. Those
    that are marked already stay marked, so that a mark does not wander as replicas come and go.
    """
    per_host = Counter(_host(member) for member in members.values())

    def turn(replica_id: ReplicaId) -> tuple[bool, int, str, int]:
        member = members[replica_id]
        host = _host(member)
        return replica_id not in marked, per_host[host], host, -member.joined

    return frozenset(sorted(members, key=turn)[: max(0, number)])


def _host(member: Member) -> str:
    return member.snapshot.address.rpartition(":")[0]


class Drain:
    """Keeps the marks of replicas that are about to leave; one owner. Monotonic seconds."""

    def __init__(self) -> None:
        self.marked: frozenset[ReplicaId] = frozenset()
        self._since: float | None = None

    def mark(self, members: Mapping[ReplicaId, Member], number: int, now: float) -> bool:
        """Mark as many replicas as are to leave; returns whether more are marked than before."""
        before = self.marked
        self.marked = expected_leavers(members, number, before) if number > 0 else frozenset()
        if not self.marked:
            self._since = None
        elif self._since is None or not self.marked <= before:
            self._since = now
        return not self.marked <= before

    def done(
        self,
        members: Mapping[ReplicaId, Member],
        needed: Collection[AdapterDigest],
        *,
        drain_s: float,
        now: float,
    ) -> bool:
        """Report whether the marked replicas may go.

        That is when each ``needed`` adapter that they have is ready on another one, or after
        ``drain_s``.
        """
        if self._since is None or now - self._since >= drain_s:
            return True
        elsewhere: set[AdapterDigest] = set()
        here: set[AdapterDigest] = set()
        for replica_id, member in members.items():
            if replica_id in self.marked:
                here |= member.ready
            elif not member.suspect:
                elsewhere |= member.ready
        return here.intersection(needed) <= elsewhere
