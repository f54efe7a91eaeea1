"""Places adapters on replicas: within capacity, with few moves, the same wherever it is computed.

Copies are served in order of worth: pins, then the first copy of every adapter with load, then
further copies by the load each would carry (the highest-averages rule, which unlike largest
remainders never takes a copy away because a replica was added). A copy stays where it is if it can.
A new one goes to the first replica in the adapter's rendezvous order that has room and would
not carry much more than the mean load; where no replica has room it may displace copies of
clearly less worth. Adapters that replicas loaded on demand are in no plan, but they are
used: they make room only for a copy that would carry clearly more. Nothing is evicted before its
room is needed.
"""

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass, field

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.planning.copies import copy_targets
from cluster.placement.planning.plan import (
    CopyTarget,
    Move,
    MoveKind,
    Plan,
    PlanInputs,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.rendezvous import order

_PIN, _FIRST, _EXTRA, _IDLE = 0, 1, 2, 3

_Worth = tuple[int, float, AdapterDigest]  # (class, minus load carried, digest); least is first


@dataclass(slots=True)
class _Replica:
    room: ReplicaRoom
    resident: dict[AdapterDigest, ResidentCopy]
    assigned: dict[AdapterDigest, int] = field(default_factory=dict)  # digest -> bytes
    load: float = 0.0  # requests per second of the copies assigned

    def fits(self, digest: AdapterDigest, nbytes: int, without: Collection[AdapterDigest]) -> bool:
        """Report whether a new copy fits with the others here, except ``without``."""
        taken = {h.digest: h.nbytes for h in self.resident.values() if h.busy}
        taken |= {h.digest: h.nbytes for h in self.resident.values() if h.digest not in without}
        taken |= {d: size for d, size in self.assigned.items() if d not in without}
        taken[digest] = nbytes
        return len(taken) <= self.room.slots and sum(taken.values()) <= self.room.bytes_limit

    def can_take(self, nbytes: int, spare_share: float) -> bool:
        """Report whether the plan may have one more copy here, sparing a share of the slots."""
        slots = max(1, self.room.slots - math.ceil(self.room.slots * spare_share))
        return (
            len(self.assigned) < min(slots, self.room.slots)
            and sum(self.assigned.values()) + nbytes <= self.room.bytes_limit
        )


def plan(inputs: PlanInputs) -> Plan:
    """Return the placement for the next tick. Pure; ``inputs`` may be in any order."""
    return _Planning(inputs).run()


class _Planning:
    """One run of the planner."""

    def __init__(self, inputs: PlanInputs) -> None:
        self._inputs = inputs
        self._policy = inputs.policy.placement
        self._replicas = {
            room.replica_id: _Replica(room, {copy.digest: copy for copy in room.resident})
            for room in sorted(inputs.replicas, key=lambda room: room.replica_id)
        }
        self._targets = {target.digest: target for target in copy_targets(inputs)}
        self._infos = {info.digest: info for info in inputs.adapters}
        self._count: dict[AdapterDigest, int] = dict.fromkeys(self._targets, 0)
        self._budget = self._policy.max_moves_per_tick
        self._moves: list[Move] = []
        self._unplaced: dict[AdapterDigest, str] = {}

    def run(self) -> Plan:
        to_place = self._keep_what_is_there()
        self._place(to_place)
        self._keep_idle()
        self._make_room()
        ordered = {
            replica_id: tuple(sorted(replica.assigned, key=self._importance))
            for replica_id, replica in self._replicas.items()
        }
        return Plan(
            desired=ordered,
            moves=tuple(sorted(self._moves, key=lambda m: (m.replica_id, m.kind, m.digest))),
            copies=tuple(sorted(self._targets.values(), key=lambda t: (t.alias, t.digest))),
            unplaced=tuple(sorted(self._unplaced.items())),
        )

    def _importance(self, digest: AdapterDigest) -> _Worth:
        target = self._targets.get(digest)
        if target is None or not target.copies:
            return (_IDLE, 0.0, digest)
        return (_PIN if target.pinned else _FIRST, -target.rate, digest)

    def _worth(self, target: CopyTarget, nth: int) -> _Worth:
        """Return the worth of an adapter's nth copy (from 1)."""
        if nth <= target.pinned:
            return (_PIN, -target.rate, target.digest)
        if nth == 1:
            return (_FIRST, -target.rate, target.digest)
        return (_EXTRA, -target.rate / nth, target.digest)

    def _nbytes(self, replica: _Replica, digest: AdapterDigest) -> int:
        copy = replica.resident.get(digest)
        return copy.nbytes if copy is not None else self._infos[digest].nbytes

    def _can_take(self, replica: _Replica, target: CopyTarget, worth: _Worth) -> bool:
        spare = 0.0 if worth[0] == _PIN else self._policy.spare_share
        return replica.can_take(self._nbytes(replica, target.digest), spare)

    def _assign(self, replica: _Replica, target: CopyTarget) -> None:
        replica.assigned[target.digest] = self._nbytes(replica, target.digest)
        replica.load += target.rate / target.copies
        self._count[target.digest] += 1

    def _unassign(self, replica: _Replica, target: CopyTarget) -> None:
        del replica.assigned[target.digest]
        replica.load -= target.rate / target.copies
        self._count[target.digest] -= 1

    def _keep_what_is_there(self) -> list[_Worth]:
        """Assign copies to replicas that have them, worthiest first; returns those left over."""
        left_over: list[_Worth] = []
        holders = {digest: self._holders(digest) for digest in self._targets}
        for worth in sorted(
            self._worth(target, nth)
            for target in self._targets.values()
            for nth in range(1, target.copies + 1)
        ):
            target = self._targets[worth[2]]
            for replica in holders[target.digest]:
                if self._can_take(replica, target, worth):
                    holders[target.digest].remove(replica)
                    self._assign(replica, target)
                    break
            else:
                left_over.append(worth)
        return left_over

    def _holders(self, digest: AdapterDigest) -> list[_Replica]:
        """Return the replicas that have the adapter or should, those worth keeping first."""
        ranks = {r: i for i, r in enumerate(order(digest, self._having(digest)))}

        def preference(replica: _Replica) -> tuple[bool, bool, int]:
            copy = replica.resident.get(digest)
            return (
                digest not in replica.room.desired,
                copy is None or not copy.ready,
                ranks[replica.room.replica_id],
            )

        return sorted((self._replicas[replica_id] for replica_id in ranks), key=preference)

    def _having(self, digest: AdapterDigest) -> list[ReplicaId]:
        return [
            replica_id
            for replica_id, replica in self._replicas.items()
            if (digest in replica.resident or digest in replica.room.desired)
            and (replica_id, digest) not in self._inputs.avoid
        ]

    def _place(self, to_place: list[_Worth]) -> None:
        """Find places for copies that have none, within the budget of moves."""
        heapq.heapify(to_place)
        while to_place:
            worth = heapq.heappop(to_place)
            target = self._targets[worth[2]]
            if self._count[target.digest] >= target.copies:
                continue
            if self._budget == 0 and target.digest not in self._inputs.lost:
                self._unplaced[target.digest] = "waits for the next tick: move budget spent"
                continue
            options = self._options(target)
            replica = self._with_room(target, worth, options)
            if replica is None:
                replica, displaced = self._displaceable(target, worth, options)
                if replica is None:
                    self._unplaced[target.digest] = self._why_not(target, options)
                    continue
                for digest in displaced:
                    loser = self._targets[digest]
                    self._unassign(replica, loser)
                    heapq.heappush(to_place, self._worth(loser, self._count[digest] + 1))
            self._prefetch(replica, target)

    def _why_not(self, target: CopyTarget, options: list[_Replica]) -> str:
        if not options:
            return "no replica is left to try: prefetch failed recently"
        nbytes = self._infos[target.digest].nbytes
        if all(nbytes > replica.room.bytes_limit for replica in options):
            return f"its {nbytes} bytes are more than a replica has for adapters"
        return "no room: what replicas hold is pinned, in use or carries as much load"

    def _prefetch(self, replica: _Replica, target: CopyTarget) -> None:
        self._assign(replica, target)
        replica_id = replica.room.replica_id
        copy = replica.resident.get(target.digest)
        if copy is not None or target.digest in replica.room.desired:
            return
        if target.digest not in self._inputs.lost:
            self._budget -= 1
        self._moves.append(Move(replica_id, target.digest, MoveKind.PREFETCH, target.reason))

    def _options(self, target: CopyTarget) -> list[_Replica]:
        """Return the replicas that could take one more copy, in rendezvous order."""
        free = [
            replica_id
            for replica_id, replica in self._replicas.items()
            if target.digest not in replica.assigned
            and (replica_id, target.digest) not in self._inputs.avoid
        ]
        return [self._replicas[replica_id] for replica_id in order(target.digest, free)]

    def _with_room(
        self, target: CopyTarget, worth: _Worth, options: list[_Replica]
    ) -> _Replica | None:
        roomy = [
            replica
            for replica in options
            if self._can_take(replica, target, worth)
            and replica.fits(
                target.digest,
                self._nbytes(replica, target.digest),
                self._evictable(replica, target, worth),
            )
        ]
        if not roomy:
            return None
        carried = target.rate / target.copies
        mean = sum(t.rate for t in self._targets.values()) / len(self._replicas)
        bound = self._inputs.policy.picking.bound * mean
        for replica in roomy:
            if replica.load + carried <= bound:
                return replica
        return min(roomy, key=lambda replica: replica.load)

    def _evictable(
        self, replica: _Replica, target: CopyTarget, worth: _Worth
    ) -> set[AdapterDigest]:
        """Return resident adapters that are not planned here and worth less than the copy."""
        carried = target.rate / target.copies
        margin = 1.0 + self._policy.tolerance
        return {
            digest
            for digest in replica.resident
            if digest not in replica.assigned
            and (
                worth[0] == _PIN
                or self._rate(digest) == 0.0
                or carried > margin * self._rate(digest) / self._holder_count(digest)
            )
        }

    def _holder_count(self, digest: AdapterDigest) -> int:
        return sum(1 for replica in self._replicas.values() if digest in replica.resident)

    def _displaceable(
        self, target: CopyTarget, worth: _Worth, options: list[_Replica]
    ) -> tuple[_Replica | None, list[AdapterDigest]]:
        """Return the first replica where clearly less worthy copies make room, and these."""
        for replica in options:
            losers = sorted(
                (
                    self._worth(self._targets[digest], self._count[digest])
                    for digest in replica.assigned
                    if digest not in self._inputs.cooling
                ),
                reverse=True,
            )
            displaced: list[AdapterDigest] = []
            evictable = self._evictable(replica, target, worth)
            nbytes = self._nbytes(replica, target.digest)
            for loser in losers:
                if not self._clearly_worthier(worth, loser):
                    break
                displaced.append(loser[2])
                if replica.fits(target.digest, nbytes, {*evictable, *displaced}):
                    return replica, displaced
        return None, []

    def _clearly_worthier(self, winner: _Worth, loser: _Worth) -> bool:
        if winner[0] != loser[0]:
            return winner[0] < loser[0]
        return winner[0] != _PIN and -winner[1] > -loser[1] * (1.0 + self._policy.tolerance)

    def _keep_idle(self) -> None:
        """Keep adapters that lost their load where they are, last used first, while they fit."""
        for replica in self._replicas.values():
            idle = [
                copy
                for digest, copy in replica.resident.items()
                if digest in replica.room.desired
                and digest not in replica.assigned
                and digest in self._infos
                and (digest not in self._targets or not self._targets[digest].copies)
            ]
            for copy in sorted(idle, key=lambda copy: (copy.idle_s, copy.digest)):
                if replica.can_take(copy.nbytes, self._policy.spare_share) and replica.fits(
                    copy.digest, copy.nbytes, replica.resident
                ):
                    replica.assigned[copy.digest] = copy.nbytes

    def _make_room(self) -> None:
        """Evict what the plan does not want, least used first, where room is short."""
        for replica_id, replica in self._replicas.items():
            sizes = dict(replica.assigned)
            for copy in replica.resident.values():
                sizes.setdefault(copy.digest, copy.nbytes)
            victims = sorted(
                (h for h in replica.resident.values() if h.digest not in replica.assigned),
                key=lambda h: (self._rate(h.digest), -h.idle_s, h.digest),
            )
            arriving = sorted(d for d in replica.assigned if d not in replica.resident)
            for victim in victims:
                fits = sum(sizes.values()) <= replica.room.bytes_limit
                if len(sizes) <= replica.room.slots and fits:
                    break
                if victim.busy:
                    continue
                del sizes[victim.digest]
                reason = "room for " + ", ".join(self._infos[d].alias for d in arriving)
                if not arriving:
                    reason = "over the replica's capacity"
                self._moves.append(Move(replica_id, victim.digest, MoveKind.EVICT, reason))

    def _rate(self, digest: AdapterDigest) -> float:
        target = self._targets.get(digest)
        return target.rate if target is not None else 0.0
