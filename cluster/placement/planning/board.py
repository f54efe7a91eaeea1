"""The replicas while a plan is made: what each has, is to have, and has room for."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.demand.demand import AdapterSet
from cluster.placement.planning.plan import AdapterInfo, ReplicaRoom, ResidentCopy
from cluster.placement.planning.rules import DENSER

TRIED = 16
"""Replicas with little work that a set without a place is tried on."""


class Place:
    """One replica while a plan is made."""

    __slots__ = (
        "_busy", "_kept", "_promised", "_taken", "assigned", "avoid", "before", "index", "room",
        "there", "work",
    )  # fmt: skip

    def __init__(
        self, index: int, room: ReplicaRoom, avoid: frozenset[AdapterDigest], spare: float
    ) -> None:
        self.index = index
        self.room = room
        self.avoid = avoid
        self.there: dict[AdapterDigest, ResidentCopy] = {c.digest: c for c in room.resident}
        self.before = frozenset(room.desired) - (avoid - self.there.keys())
        self.assigned: dict[AdapterDigest, int] = {}  # bytes
        self.work = 0.0  # replica's seconds per second, of the sets that it serves
        self._busy = {c.digest: c.nbytes for c in room.resident if c.busy}  # and not assigned
        self._taken = sum(self._busy.values())  # bytes, of what is busy or assigned
        self._promised = room.slots, float(room.bytes_limit)
        self._kept = room.slots - math.ceil(spare * room.slots), room.bytes_limit * (1.0 - spare)

    def has(self, members: Iterable[AdapterDigest]) -> bool:
        """Return whether all members are here, or are to come."""
        return all(digest in self.there or digest in self.before for digest in members)

    def is_ready(self, members: Iterable[AdapterDigest]) -> bool:
        """Return whether all members can be served now."""
        there = self.there
        return all(digest in there and there[digest].ready for digest in members)

    def missing(self, members: Iterable[AdapterDigest]) -> list[AdapterDigest]:
        """Return the members that would have to be fetched."""
        return [
            digest
            for digest in members
            if not (digest in self.there or digest in self.before or digest in self.assigned)
        ]

    def fits(
        self, members: AdapterSet, sizes: Mapping[AdapterDigest, int], *, promised: bool = False
    ) -> bool:
        """Return whether the members fit with what is assigned and what is in use.

        Only what is promised may take the spare share of the pool.
        """
        if self.avoid and not self.avoid.isdisjoint(self.missing(members)):
            return False
        most_slots, most_bytes = self._promised if promised else self._kept
        slots, nbytes = len(self.assigned) + len(self._busy), self._taken
        new = False
        for digest in members:
            if digest not in self.assigned:
                new = True
                if digest not in self._busy:
                    slots += 1
                    nbytes += self.nbytes(digest, sizes)
        return not new or (slots <= most_slots and nbytes <= most_bytes)

    def nbytes(self, digest: AdapterDigest, sizes: Mapping[AdapterDigest, int]) -> int:
        """Return the bytes that an adapter takes, or would take, here."""
        copy = self.there.get(digest)
        return sizes[digest] if copy is None else copy.nbytes

    def assign(self, members: Iterable[AdapterDigest], sizes: Mapping[AdapterDigest, int]) -> None:
        """Plan the members here."""
        for digest in members:
            if digest not in self.assigned:
                self.assigned[digest] = self.nbytes(digest, sizes)
                if self._busy.pop(digest, None) is None:
                    self._taken += self.assigned[digest]

    def gives_way(
        self,
        members: AdapterSet,
        sizes: Mapping[AdapterDigest, int],
        density: float,
        worth: Mapping[AdapterDigest, float],
    ) -> bool:
        """Return whether what would have to go for the members is clearly less dense than they."""
        taken = {digest: copy.nbytes for digest, copy in self.there.items()} | self.assigned
        for digest in members:
            taken[digest] = self.nbytes(digest, sizes)
        slots = len(taken) - self.room.slots
        nbytes = sum(taken.values()) - self.room.bytes_limit
        idle = sorted(
            (worth.get(digest, 0.0), digest)
            for digest, copy in self.there.items()
            if not (copy.busy or digest in self.assigned or digest in members)
        )
        for value, digest in idle:
            if slots <= 0 and nbytes <= 0:
                return True
            if value * DENSER > density:
                return False
            slots -= 1
            nbytes -= taken[digest]
        return slots <= 0 and nbytes <= 0


class Board:
    """All replicas, by id."""

    def __init__(
        self,
        replicas: Iterable[ReplicaRoom],
        adapters: Iterable[AdapterInfo],
        avoid: Iterable[tuple[ReplicaId, AdapterDigest]],
        spare: float,
    ) -> None:
        avoided: dict[ReplicaId, set[AdapterDigest]] = {}
        for replica_id, digest in avoid:
            avoided.setdefault(replica_id, set()).add(digest)
        self.sizes = {info.digest: info.nbytes for info in adapters}
        self.places = [
            Place(index, room, frozenset(avoided.get(room.replica_id, ())), spare)
            for index, room in enumerate(sorted(replicas, key=lambda room: room.replica_id))
        ]
        self._holders: dict[AdapterDigest, list[Place]] = {}
        for place in self.places:
            for digest in place.there.keys() | place.before:
                self._holders.setdefault(digest, []).append(place)
        self._by_work: list[tuple[float, int, int]] = []
        self.mean_work = 0.0
        """The work of a replica, on average."""

    def holders(self, digest: AdapterDigest) -> Sequence[Place]:
        """Return the replicas that have an adapter or are to have it, by id."""
        return self._holders.get(digest, ())

    def whole(self, members: AdapterSet) -> list[Place]:
        """Return the replicas that have all members or are to have them, by id."""
        if len(members) == 1:
            return list(self.holders(members[0]))
        fewest = min((self.holders(digest) for digest in members), key=len)
        return [place for place in fewest if place.has(members)]

    def spread_work(self, sets: Iterable[tuple[AdapterSet, float, Sequence[Place]]]) -> None:
        """Give each set's work to the replicas that have it.

        The picker sends requests where least is to do, so a set on several replicas fills them up
        in that order, when those on one replica are counted.
        """
        several = []
        for members, work, places in sets:
            if len(places) == 1:
                places[0].work += work
            elif places:
                several.append((members, work, places))
        for _, work, places in sorted(several, key=lambda item: (-item[1], item[0])):
            for _ in places:
                least = min(places, key=lambda place: (place.work, place.index))
                least.work += work / len(places)
        self.mean_work = sum(place.work for place in self.places) / max(1, len(self.places))
        self._by_work = [(p.work, len(p.assigned), p.index) for p in self.places]
        heapq.heapify(self._by_work)

    def least_busy(self, most: int = TRIED) -> list[Place]:
        """Return the replicas with the least work, the emptiest of equal ones first."""
        found: list[Place] = []
        heap = self._by_work
        while heap and len(found) < most:
            entry = heapq.heappop(heap)
            place = self.places[entry[2]]
            now = (place.work, len(place.assigned), place.index)
            if entry != now:
                heapq.heappush(heap, now)
            else:
                found.append(place)
        for place in found:
            heapq.heappush(heap, (place.work, len(place.assigned), place.index))
        return found
