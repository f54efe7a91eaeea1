"""The replicas as the controller knows them: who is there, and what each should have.

A replica is heard of by its snapshots. One that has been silent for ``SUSPECT_S``, or whose link a
front has lost, is suspect: it counts as there, and its adapters are placed elsewhere as well. After
``GONE_S`` it is gone, and at once where its actor is known to be dead.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import ReplicaPlan
from cluster.placement.control.history import History
from cluster.placement.control.leadership import Leadership
from cluster.placement.planning.plan import Move, MoveKind, ReplicaRoom, ResidentCopy

SUSPECT_S = 3.0
GONE_S = 15.0
CONFIRM_S = 0.25
"""A replica whose link a front has lost may answer the controller for so long before it is
suspect: the front's own network may be what failed."""
_DEAD_KEPT = 1024
_TAKES_ROOM = frozenset({AdapterState.READY, AdapterState.LOADING, AdapterState.EVICTING})
_ON_ITS_WAY = frozenset(
    {AdapterState.FETCHING, AdapterState.ON_HOST, AdapterState.LOADING, AdapterState.READY}
)


@dataclass(slots=True)
class Member:
    """One replica: its last word, and the plan that it should follow."""

    snapshot: ReplicaSnapshot
    heard_at: float
    joined: int  # counts replicas as they join: the highest is the newest
    desired: tuple[AdapterDigest, ...]
    version: PlanVersion  # of the last change of ``desired``
    acknowledged: PlanVersion
    sent: PlanVersion = NO_PLAN
    sent_at: float = float("-inf")
    doubted_at: float | None = None  # a front lost its link then, and it has not answered since
    suspect: bool = False
    arrived: set[AdapterDigest] = field(default_factory=set)  # of ``desired``, seen there since
    pinned: frozenset[AdapterDigest] = frozenset()  # of ``desired``
    kept: frozenset[AdapterDigest] = frozenset()  # of ``desired``: not fetched should it have gone
    ready: frozenset[AdapterDigest] = frozenset()  # what it can serve, by its snapshot

    def __post_init__(self) -> None:
        self.hear(self.snapshot, self.heard_at)

    def hear(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Take in a snapshot."""
        ready = AdapterState.READY
        self.snapshot, self.heard_at = snapshot, now
        self.ready = frozenset([a.digest for a in snapshot.resident if a.state is ready])


class Fleet:
    """One owner. Times are monotonic seconds."""

    def __init__(self, leadership: Leadership, history: History, resend_s: float) -> None:
        self._leadership = leadership
        self.members: dict[ReplicaId, Member] = {}
        self._number = 0  # of the newest plan
        self._joined = 0
        self._reviewed_at: float | None = None
        self._lost: set[AdapterDigest] = set()  # whose copies went with replicas, until placed
        self._gone: list[ReplicaId] = []  # since the last review
        self._dead: OrderedDict[ReplicaId, None] = OrderedDict()
        self._history = history
        self._resend_s = resend_s

    # What is heard

    def hear(self, snapshot: ReplicaSnapshot, now: float, asked_at: float) -> bool:
        """Take in a snapshot; False where it is not newer than the last, or its replica dead."""
        replica_id = snapshot.replica_id
        if replica_id in self._dead:
            return False
        self._leadership.learn(snapshot.desired_version.epoch)
        member = self.members.get(replica_id)
        if member is None:
            self._join(snapshot, now)
            return True
        if snapshot.sequence <= member.snapshot.sequence:
            return False
        member.hear(snapshot, now)
        member.acknowledged = max(member.acknowledged, snapshot.desired_version)
        member.arrived.update(_there(member.desired, snapshot))
        if member.doubted_at is not None and asked_at >= member.doubted_at:
            member.doubted_at = None
        return True

    def doubt(self, replica_ids: Iterable[ReplicaId], now: float) -> None:
        """Take in that a front lost its links to replicas."""
        for replica_id in replica_ids:
            member = self.members.get(replica_id)
            if member is not None and member.doubted_at is None:
                member.doubted_at = now

    def bury(self, replica_id: ReplicaId, now: float, why: str) -> None:
        """Take in that a replica is dead: whatever it said before comes too late."""
        self._dead[replica_id] = None
        while len(self._dead) > _DEAD_KEPT:
            self._dead.popitem(last=False)
        self._drop(replica_id, now, why)

    def acknowledge(self, replica_id: ReplicaId, version: PlanVersion) -> bool:
        """Take in the version that a replica obeys; False where the replica is unknown."""
        self._leadership.learn(version.epoch)
        member = self.members.get(replica_id)
        if member is not None:
            member.acknowledged = max(member.acknowledged, version)
        return member is not None

    def review(self, now: float) -> tuple[ReplicaId, ...]:
        """Judge who is suspect and who is gone; returns those gone since the last time.

        Time in which this was not called is not held against replicas: a controller that was
        itself stopped could not hear them.
        """
        if self._reviewed_at is not None:
            deaf = now - self._reviewed_at - SUSPECT_S
            for member in self.members.values() if deaf > 0.0 else ():
                member.heard_at = min(now, member.heard_at + deaf)
        self._reviewed_at = now
        for replica_id, member in sorted(self.members.items()):
            silence = now - member.heard_at
            if silence > GONE_S:
                self._drop(replica_id, now, f"silent for more than {GONE_S:g} s")
                continue
            link_lost = member.doubted_at is not None and now - member.doubted_at >= CONFIRM_S
            if (silence > SUSPECT_S or link_lost) is not member.suspect:
                member.suspect = not member.suspect
                if member.suspect:
                    why = "its link is lost" if link_lost else f"silent for {silence:.1f} s"
                    words = f"{why}; its adapters are placed elsewhere as well"
                    self._history.record(now, "replica_suspect", words, replica_id)
                else:
                    self._history.record(now, "replica_back", "it answers again", replica_id)
        gone, self._gone = tuple(self._gone), []
        return gone

    def staying(self, leaving: Collection[ReplicaId]) -> dict[ReplicaId, Member]:
        """Return the replicas that adapters can be entrusted to."""
        return {
            replica_id: member
            for replica_id, member in sorted(self.members.items())
            if not (member.suspect or member.snapshot.draining or replica_id in leaving)
        }

    def lost(self, leaving: Collection[ReplicaId]) -> frozenset[AdapterDigest]:
        """Return what no staying replica has or is to have, but one did that is gone or going."""
        staying = self.staying(leaving)
        kept = {d for member in staying.values() for d in (*member.desired, *member.ready)}
        self._lost -= kept
        going = (member for r, member in self.members.items() if r not in staying)
        had = {d for member in going for d in (*member.desired, *member.ready)}
        return frozenset(self._lost | had) - kept

    def forget_unlisted(self, listed: Collection[AdapterDigest]) -> None:
        """Forget lost adapters that the catalog does not list any more."""
        self._lost.intersection_update(listed)

    def _drop(self, replica_id: ReplicaId, now: float, why: str) -> None:
        member = self.members.pop(replica_id, None)
        if member is not None:
            words = f"{why}; {len(member.desired)} placed adapters lost a copy"
            self._history.record(now, "replica_lost", words, replica_id)
            self._lost |= {*member.desired, *member.ready}
            self._gone.append(replica_id)

    def _join(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Add a replica. It keeps what it follows and has, under a version of this epoch."""
        self._joined += 1
        desired = _there(snapshot.desired, snapshot)
        self.members[snapshot.replica_id] = Member(
            snapshot=snapshot,
            heard_at=now,
            joined=self._joined,
            desired=desired,
            version=self._next_version(),
            acknowledged=snapshot.desired_version,
            pinned=_pinned(snapshot),
            kept=frozenset(desired),
        )
        words = f"{snapshot.slots_total} adapter slots, {snapshot.adapter_bytes_limit} bytes"
        self._history.record(now, "replica_joined", words, snapshot.replica_id)

    def _next_version(self) -> PlanVersion:
        self._number += 1
        return self.version

    @property
    def version(self) -> PlanVersion:
        """Return the newest plan's version."""
        return PlanVersion(self._leadership.epoch, self._number)

    # What should be

    def claim(self) -> None:
        """Begin to act under a new epoch: every replica is sent once more what it follows."""
        version = self._next_version()
        for member in self.members.values():
            member.desired = _there(member.snapshot.desired, member.snapshot)
            member.version, member.pinned = version, _pinned(member.snapshot)
            member.kept = frozenset(member.desired)

    def rooms(self, now: float, leaving: Collection[ReplicaId]) -> tuple[ReplicaRoom, ...]:
        """Return the replicas that adapters may be placed on."""
        return tuple(
            ReplicaRoom(
                replica_id=replica_id,
                slots=member.snapshot.slots_total,
                bytes_limit=member.snapshot.adapter_bytes_limit,
                resident=_resident_copies(member.snapshot),
                desired=self._still_desired(member, now),
                eviction_age_s=member.snapshot.eviction_age_s,
            )
            for replica_id, member in self.staying(leaving).items()
        )

    def _still_desired(self, member: Member, now: float) -> tuple[AdapterDigest, ...]:
        """Return the replica's desired adapters without those that it loaded and evicted again."""
        there = _there(member.desired, member.snapshot)
        settled = (
            member.snapshot.desired_version >= member.version
            and now - member.sent_at >= self._resend_s
        )
        if settled:
            return there
        return tuple(d for d in member.desired if d in there or d not in member.arrived)

    def adopt(
        self,
        desired: Mapping[ReplicaId, tuple[AdapterDigest, ...]],
        pinned: Collection[AdapterDigest] = (),
        kept: Mapping[ReplicaId, frozenset[AdapterDigest]] | None = None,
    ) -> None:
        """Make a placement the desired one; a replica whose part differs gets a new version.

        What is ``pinned`` is not evicted wherever it is placed. What is ``kept`` is not fetched.
        """
        for replica_id in desired.keys() & self.members.keys():
            self.members[replica_id].kept = (kept or {}).get(replica_id, frozenset())
        changed = {
            replica_id: digests
            for replica_id, digests in desired.items()
            if replica_id in self.members
            and not _follows(self.members[replica_id], digests, pinned)
        }
        if changed:
            version = self._next_version()
        for replica_id, digests in changed.items():
            member = self.members[replica_id]
            member.desired, member.version = digests, version
            member.pinned = frozenset(digests).intersection(pinned)
            member.arrived = member.arrived.intersection(digests)
            member.arrived.update(_there(digests, member.snapshot))

    def plans_to_send(self, moves: Iterable[Move], now: float) -> tuple[ReplicaPlan, ...]:
        """Return the plans that must be sent; they count as sent.

        A plan is repeated until it is acknowledged, and where an adapter to be fetched is missing.
        """
        released = [move for move in moves if move.kind is MoveKind.RELEASE]
        plans = []
        for replica_id, member in sorted(self.members.items()):
            if member.suspect or member.snapshot.draining:
                continue
            fetched = member.kept.union(member.ready).issuperset(member.desired)
            if member.acknowledged >= member.version and fetched:
                continue
            news = member.sent != member.version
            if not news and now - member.sent_at < self._resend_s:
                continue
            for move in released if news else ():
                if move.replica_id == replica_id:
                    self._history.record(now, "release", move.reason, replica_id, move.digest)
            member.sent, member.sent_at = member.version, now
            plans.append(
                ReplicaPlan(replica_id, member.version, member.desired, member.pinned, member.kept)
            )
        return tuple(plans)


def _there(
    digests: Iterable[AdapterDigest], snapshot: ReplicaSnapshot
) -> tuple[AdapterDigest, ...]:
    """Return those of ``digests`` that a replica has: to tell it so once more moves nothing."""
    there = {a.digest for a in snapshot.resident if a.state in _ON_ITS_WAY}
    return tuple([digest for digest in digests if digest in there])


def _pinned(snapshot: ReplicaSnapshot) -> frozenset[AdapterDigest]:
    """Return what a replica keeps for good of its placement, for whatever reason."""
    return frozenset(a.digest for a in snapshot.resident if a.pinned).intersection(snapshot.desired)


def _follows(
    member: Member, digests: Collection[AdapterDigest], pinned: Collection[AdapterDigest]
) -> bool:
    placed = frozenset(digests)
    return placed == frozenset(member.desired) and placed.intersection(pinned) == member.pinned


def _resident_copies(snapshot: ReplicaSnapshot) -> tuple[ResidentCopy, ...]:
    copies = []
    for adapter in snapshot.resident:
        if adapter.state in _TAKES_ROOM:
            ready = adapter.state is AdapterState.READY
            busy = adapter.leases > 0 or adapter.pinned or not ready
            copies.append(ResidentCopy(adapter.digest, adapter.nbytes, ready, busy))
    return tuple(copies)
