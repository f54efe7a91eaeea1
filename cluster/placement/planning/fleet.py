"""The replicas as the controller knows them: their last snapshots, and what each should have.

A plan is sent to a replica until it has acknowledged the version at which its desired adapters
last changed, and again where an acknowledged adapter is missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.planning.history import History
from cluster.placement.planning.plan import MoveKind, Plan, ReplicaRoom, ResidentCopy

_TAKES_ROOM = frozenset({AdapterState.READY, AdapterState.LOADING, AdapterState.EVICTING})
_ON_ITS_WAY = frozenset(
    {AdapterState.FETCHING, AdapterState.ON_HOST, AdapterState.LOADING, AdapterState.READY}
)


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """The message to one replica."""

    replica_id: ReplicaId
    version: int
    desired: tuple[AdapterDigest, ...]  # what matters most first


@dataclass(slots=True)
class Assignment:
    """The adapters that one replica should have."""

    desired: tuple[AdapterDigest, ...]
    version: int  # of the last change of ``desired``
    acknowledged: int = 0
    sent_version: int = 0
    sent_at: float = 0.0  # wall clock, seconds


class Fleet:
    """One owner; all times are wall-clock seconds."""

    def __init__(self, history: History, resend_s: float) -> None:
        self.version = 0
        self.snapshots: dict[ReplicaId, ReplicaSnapshot] = {}
        self.assignments: dict[ReplicaId, Assignment] = {}
        self._history = history
        self._resend_s = resend_s
        self._started_at: float | None = None

    def observe(
        self, snapshots: Iterable[ReplicaSnapshot], *, lost_after_s: float, now: float
    ) -> None:
        """Take in the replicas' snapshots; drop those silent for longer than ``lost_after_s``."""
        if self._started_at is None:
            self._started_at = now
        for snapshot in snapshots:
            known = self.snapshots.get(snapshot.replica_id)
            if known is None or snapshot.observed_at >= known.observed_at:
                self.snapshots[snapshot.replica_id] = snapshot
        for replica_id in sorted(self.snapshots.keys() | self.assignments.keys()):
            heard = self.snapshots.get(replica_id)
            # A restored assignment has been heard of when this process began to listen.
            heard_at = heard.observed_at if heard is not None else self._started_at
            if now - heard_at > lost_after_s:
                self._drop(replica_id, now, f"silent for more than {lost_after_s:g} s")
        for replica_id, snapshot in sorted(self.snapshots.items()):
            assignment = self.assignments.get(replica_id)
            if assignment is None:
                self._join(snapshot, now)
                continue
            assignment.acknowledged = max(assignment.acknowledged, snapshot.desired_version)
            if snapshot.desired_version > assignment.version:
                # It follows a plan newer than our state, which was restored: ours comes again.
                self.version = max(self.version, snapshot.desired_version) + 1
                assignment.version = self.version

    def _drop(self, replica_id: ReplicaId, now: float, reason: str) -> None:
        self.snapshots.pop(replica_id, None)
        assignment = self.assignments.pop(replica_id, None)
        if assignment is not None:
            words = f"{reason}; {len(assignment.desired)} placed adapters lost a copy"
            self._history.record(now, "replica_lost", words, replica_id)

    def _join(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Add a replica. One that already follows a plan keeps it: the store may have lost ours."""
        self.version = max(self.version, snapshot.desired_version)
        self.assignments[snapshot.replica_id] = Assignment(
            snapshot.desired, snapshot.desired_version, acknowledged=snapshot.desired_version
        )
        words = f"{snapshot.slots_total} adapter slots, {snapshot.adapter_bytes_limit} bytes"
        self._history.record(now, "replica_joined", words, snapshot.replica_id)

    def rooms(self, now: float) -> tuple[ReplicaRoom, ...]:
        """Return the replicas that adapters may be placed on."""
        return tuple(
            ReplicaRoom(
                replica_id=replica_id,
                slots=snapshot.slots_total,
                bytes_limit=snapshot.adapter_bytes_limit,
                resident=_resident_copies(snapshot),
                desired=self._still_desired(snapshot, now),
            )
            for replica_id, snapshot in sorted(self.snapshots.items())
            if not snapshot.draining
        )

    def _still_desired(self, snapshot: ReplicaSnapshot, now: float) -> tuple[AdapterDigest, ...]:
        """Return the replica's desired adapters without those that it loaded and evicted again."""
        assignment = self.assignments[snapshot.replica_id]
        settled = (
            snapshot.desired_version >= assignment.version
            and now - assignment.sent_at >= self._resend_s
        )
        if not settled:
            return assignment.desired
        there = {a.digest for a in snapshot.resident if a.state in _ON_ITS_WAY}
        return tuple(digest for digest in assignment.desired if digest in there)

    def adopt(self, planned: Plan) -> None:
        """Make the plan's placement the desired one; what differs gets a new version."""
        changed = [
            replica_id
            for replica_id, desired in sorted(planned.desired.items())
            if set(self.assignments[replica_id].desired) != set(desired)
        ]
        if changed:
            self.version += 1
        for replica_id in changed:
            assignment = self.assignments[replica_id]
            assignment.desired = planned.desired[replica_id]
            assignment.version = self.version

    def plans_to_send(self, planned: Plan, now: float) -> tuple[ReplicaPlan, ...]:
        """Return the plans that must be sent; they count as sent."""
        plans = []
        for replica_id in sorted(planned.desired):
            assignment = self.assignments[replica_id]
            ready = {
                adapter.digest
                for adapter in self.snapshots[replica_id].resident
                if adapter.state is AdapterState.READY
            }
            missing = tuple(d for d in assignment.desired if d not in ready)
            if assignment.acknowledged >= assignment.version and not missing:
                continue
            news = assignment.sent_version != assignment.version
            if not news and now - assignment.sent_at < self._resend_s:
                continue
            for move in planned.moves if news else ():
                if move.replica_id == replica_id and move.kind is MoveKind.EVICT:
                    self._history.record(now, "evict", move.reason, replica_id, move.digest)
            assignment.sent_version, assignment.sent_at = assignment.version, now
            plans.append(ReplicaPlan(replica_id, assignment.version, assignment.desired))
        return tuple(plans)

    def status(self) -> dict[str, Any]:
        """Return each replica with what it should have and what it has, for the admin API."""
        replicas: dict[str, Any] = {}
        for replica_id, assignment in sorted(self.assignments.items()):
            snapshot = self.snapshots.get(replica_id)
            replicas[replica_id] = {
                "version": assignment.version,
                "acknowledged": assignment.acknowledged,
                "desired": [
                    {"digest": digest, "adapter": self._history.alias(digest)}
                    for digest in assignment.desired
                ],
                "resident": [
                    {"digest": a.digest, "adapter": a.alias, "state": a.state.value}
                    for a in (snapshot.resident if snapshot else ())
                ],
            }
        return replicas

    def to_state(self) -> dict[str, Any]:
        """Return its state, JSON-able, without snapshots; ``restore`` is the inverse."""
        return {
            "version": self.version,
            "assignments": {
                replica_id: {**asdict(assignment), "desired": list(assignment.desired)}
                for replica_id, assignment in sorted(self.assignments.items())
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in what ``to_state`` described."""
        self.version = state["version"]
        for replica_id, entry in state["assignments"].items():
            desired = tuple(AdapterDigest(digest) for digest in entry["desired"])
            self.assignments[ReplicaId(replica_id)] = Assignment(**{**entry, "desired": desired})


def _resident_copies(snapshot: ReplicaSnapshot) -> tuple[ResidentCopy, ...]:
    return tuple(
        ResidentCopy(
            digest=adapter.digest,
            nbytes=adapter.nbytes,
            ready=adapter.state is AdapterState.READY,
            busy=adapter.leases > 0 or adapter.pinned or adapter.state is not AdapterState.READY,
            last_used=adapter.last_used,
        )
        for adapter in snapshot.resident
        if adapter.state in _TAKES_ROOM
    )
