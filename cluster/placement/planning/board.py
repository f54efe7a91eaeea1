"""The replicas while a plan is made: what each has, is to have, and has room for."""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.demand.demand import AdapterSet
from cluster.placement.planning.plan import AdapterInfo, ReplicaRoom, ResidentCopy

TRIED = 16
"""Replicas with little work that a set without a place is tried on."""


class Place:
    """One replica while a plan is made."""

    __slots__ = (
        "_busy", "_free_bytes", "_free_slots", "_most_kept", "_most_promised", "_taken",
        "assigned", "avoid", "before", "coming", "given", "held", "index", "kept", "room",
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
        self.held = self.before | self.there.keys()  # here, or to come
        self.coming = self.held - {copy.digest for copy in room.resident if copy.ready}
        self.assigned: dict[AdapterDigest, int] = {}  # bytes
        self.kept: set[AdapterDigest] = set()  # of ``assigned``: not to be fetched
        self.work = 0.0  # replica's seconds per second, of the sets that it serves
        self.given = 0  # sets that it did not have before
        self._busy = {c.digest: c.nbytes for c in room.resident if c.busy}  # and not assigned
        self._taken = sum(self._busy.values())  # bytes, of what is busy or assigned
        self._free_slots = room.slots - len(self.there)  # of what is neither there nor assigned
        self._free_bytes = room.bytes_limit - sum([copy.nbytes for copy in room.resident])
        self._most_promised = room.slots, float(room.bytes_limit)
        self._most_kept = (
            room.slots - math.ceil(spare * room.slots),
            room.bytes_limit * (1.0 - spare),
        )

    @property
    def busyness(self) -> tuple[float, int, int]:
        """Return what replicas are ordered by where a set has to be fetched."""
        return self.work, self.given, self.index

    def is_ready(self, members: Iterable[AdapterDigest]) -> bool:
        """Return whether all members can be served now."""
        return self.held.issuperset(members) and self.coming.isdisjoint(members)

    def missing(self, members: Iterable[AdapterDigest]) -> list[AdapterDigest]:
        """Return the members that would have to be fetched."""
        held, assigned = self.held, self.assigned
        return [digest for digest in members if digest not in held and digest not in assigned]

    def fits(
        self, members: AdapterSet, sizes: Mapping[AdapterDigest, int], *, promised: bool = False
    ) -> bool:
        """Return whether the members fit with what is assigned and what is in use.

        Only what is promised may take the spare share of the pool.
        """
        if self.avoid and not self.avoid.isdisjoint(self.missing(members)):
            return False
        most_slots, most_bytes = self._most_promised if promised else self._most_kept
        assigned, busy = self.assigned, self._busy
        slots, nbytes = len(assigned) + len(busy), self._taken
        new = False
        for digest in members:
            if digest not in assigned:
                new = True
                if digest not in busy:
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
                self.assigned[digest] = nbytes = self.nbytes(digest, sizes)
                if self._busy.pop(digest, None) is None:
                    self._taken += nbytes
                if digest not in self.there:
                    self._free_slots -= 1
                    self._free_bytes -= nbytes

    def evicted_for(
        self,
        members: AdapterSet,
        sizes: Mapping[AdapterDigest, int],
        worth: Mapping[AdapterDigest, float],
    ) -> list[AdapterDigest] | None:
        """Return what would have to go for the members, least worth first; None: that cannot be."""
        there, assigned = self.there, self.assigned
        slots, nbytes = -self._free_slots, -self._free_bytes
        for digest in members:
            if digest not in there and digest not in assigned:
                slots += 1
                nbytes += sizes[digest]
        going: list[AdapterDigest] = []
        if slots <= 0 and nbytes <= 0:
            return going
        idle = sorted(
            [
                (worth.get(digest, 0.0), digest, copy.nbytes)
                for digest, copy in there.items()
                if not (copy.busy or digest in assigned or digest in members)
            ]
        )
        for _, digest, freed in idle:
            going.append(digest)
            slots -= 1
            nbytes -= freed
            if slots <= 0 and nbytes <= 0:
                return going
        return None


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
            for digest in place.held:
                self._holders.setdefault(digest, []).append(place)
        self._by_work: list[tuple[float, int, int]] = []  # sorted
        self.mean_work = 0.0
        """The work of a replica, on average."""

    def holders(self, digest: AdapterDigest) -> Sequence[Place]:
        """Return the replicas that have an adapter, are to have it, or are given it."""
        return self._holders.get(digest, ())

    def whole(self, members: AdapterSet) -> list[Place]:
        """Return the replicas that have all members or are to have them, by id."""
        if len(members) == 1:
            return list(self.holders(members[0]))
        fewest = min([self.holders(digest) for digest in members], key=len)
        return [place for place in fewest if place.held.issuperset(members)]

    def assign(
        self, members: AdapterSet, place: Place, missing: Iterable[AdapterDigest], *, kept: bool
    ) -> None:
        """Plan the members on a replica, where those that are missing will be fetched."""
        if kept:
            place.kept.update([digest for digest in members if digest not in place.assigned])
        for digest in missing:
            self._holders.setdefault(digest, []).append(place)
        place.assign(members, self.sizes)

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
        self._by_work = sorted(place.busyness for place in self.places)

    def add_work(self, place: Place, work: float) -> None:
        """Give a replica work, or take some away."""
        del self._by_work[bisect.bisect_left(self._by_work, place.busyness)]
        place.work += work
        place.given += work > 0.0
        bisect.insort(self._by_work, place.busyness)

    def busiest(self, most: int) -> list[Place]:
        """Return the replicas with the most work."""
        return [self.places[index] for _, _, index in reversed(self._by_work[-most:])]

    def least_busy(self, most: int) -> list[Place]:
        """Return the replicas with the least work; of equal ones those that are given least."""
        return [self.places[index] for _, _, index in self._by_work[:most]]
