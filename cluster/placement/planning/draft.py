"""A plan in the making: which sets have which places so far, and what is left of the churn."""

import math
from collections.abc import Collection, Iterable

from cluster.domain.ids import AdapterDigest
from cluster.placement.demand.demand import AdapterSet
from cluster.placement.planning import reasons
from cluster.placement.planning.board import TRIED, Board, Place
from cluster.placement.planning.most_copies import MostCopies
from cluster.placement.planning.plan import (
    Move,
    MoveKind,
    PlacedFor,
    Plan,
    PlanInputs,
    PlannedSet,
    WantedSet,
)
from cluster.placement.planning.rules import DENSER, PAYS
from cluster.placement.planning.wanted import pool_shares, wanted_sets

WAITS = "waits: the minute's churn is spent"
_PROMISES = (PlacedFor.PIN, PlacedFor.LOST, PlacedFor.LEAST)
_KEPT = (PlacedFor.OWED, PlacedFor.KEPT)


class Draft:
    """One plan while its steps run. Each method only adds to what has been placed."""

    def __init__(self, inputs: PlanInputs) -> None:
        self.inputs = inputs
        self.rules = inputs.rules
        self.shares = pool_shares(inputs)
        self.board = Board(inputs.replicas, inputs.adapters, inputs.avoid, inputs.rules.spare)
        self.most = MostCopies(inputs.most, self.board)
        self.sizes = self.board.sizes
        self.aliases = {info.digest: info.alias for info in inputs.adapters}
        self.wanted = wanted_sets(inputs, self.shares)  # densest first
        self.whole = {members: self.board.whole(members) for members in self.wanted}
        self.copies = {one.members: self._copies_of(one) for one in self.wanted.values()}
        self.board.spread_work(
            (members, one.work, self.whole[members]) for members, one in self.wanted.items()
        )
        self.placed: dict[AdapterSet, list[Place]] = {}
        self._worth: dict[AdapterDigest, float] = {}  # seconds saved per second and share of a pool
        for one in self.wanted.values():
            for digest in one.members:
                worth = one.saved / self.shares[digest]
                self._worth[digest] = self._worth.get(digest, 0.0) + worth
        self._rule: dict[AdapterSet, PlacedFor] = {}
        self._told = 0  # bytes
        self._spent = False  # a promise has met the end of the churn
        self._moves: list[Move] = []
        self._unplaced: dict[AdapterSet, str] = {}

    def _copies_of(self, one: WantedSet) -> int:
        """Return the copies by work; one goes only when the work has gone from both clocks."""
        target = self.rules.target
        if one.work <= target and one.members not in self.inputs.previous:
            return 1
        replicas = len(self.board.places)
        most = min(replicas, self.most.of(one.members, self.rules.most) or replicas)
        before = self.inputs.previous.get(one.members, 1)
        raised = math.ceil(one.work / target - 1e-9)
        lowered = math.ceil(one.work_down / target - 1e-9)
        return max(1, min(max(raised, min(before, lowered)), most))

    # What is placed

    def ready(self, members: AdapterSet) -> int:
        """Return the number of places so far that can serve a set now."""
        return sum([place.is_ready(members) for place in self.placed.get(members, ())])

    def keep(self, members: AdapterSet, rule: PlacedFor) -> None:
        """Place one more copy of a set where it is, if it fits anywhere there."""
        placed, options = self.placed.get(members), self.whole[members]
        if placed:
            options = [place for place in options if place not in placed]
        if len(options) > 1:
            options = sorted(
                options,
                key=lambda place: (
                    not place.is_ready(members),
                    not place.before.issuperset(members),
                    place.work,
                    place.index,
                ),
            )
        for place in options:
            if self._takes(members, place):
                self.put(members, place, rule)
                return

    def promise(
        self, members: AdapterSet, copies: int, rule: PlacedFor, *, by: str | None = None
    ) -> None:
        """Place copies, promised ``by`` a field, where the set is, or else where least is to do."""
        told, copies = copies, min(copies, len(self.board.places))
        placed = self.placed.setdefault(members, [])
        waits = self._spent and not self.whole.get(members, True)
        for place in self._options(members, copies + TRIED):
            if waits or len(placed) >= copies:
                break
            if place in placed or not self._takes(members, place, promised=True):
                continue
            if self._affords(members, place, promised=True):
                self.put(members, place, rule)
            else:
                waits = self._spent = True
        if placed:
            self._name(members, rule)
        if len(placed) < (copies if by is None else told):
            if len(placed) == copies:
                why = f"too few replicas: {copies} may have it"
            else:
                why = WAITS if waits else self._why_not(members)
            if by is not None:
                why = f"{by}: {len(placed)} of {told} copies have a place; {why}"
            self._unplaced[members] = why

    def find(self, one: WantedSet, taken: Collection[int]) -> Place | None:
        """Return the best replica that takes a set in room of what is clearly less dense.

        ``taken`` has the indices of replicas that are left out.
        """
        for place in self._options(one.members, TRIED):
            if (
                place.index not in taken
                and place.fits(one.members, self.sizes)
                and self.most.leave_room(one.members, place)
                and self._is_denser(one, place)
            ):
                return place
        return None

    def _is_denser(self, one: WantedSet, place: Place) -> bool:
        """Return whether a set is clearly denser than what would have to go for it."""
        going = place.evicted_for(one.members, self.sizes, self._worth)
        return going is not None and all(
            self._worth.get(digest, 0.0) * DENSER <= one.density for digest in going
        )

    def lost(self, one: WantedSet, place: Place) -> float:
        """Return the seconds per second that are no longer saved once a set has taken its room."""
        going = place.evicted_for(one.members, self.sizes, self._worth)
        return sum([self._worth.get(digest, 0.0) * self.shares[digest] for digest in going or ()])

    def may_move(self, one: WantedSet) -> bool:
        """Return whether a set is asked for often enough to move, and was not moved of late."""
        asked = one.up * self.rules.payback_s > PAYS
        return asked and self.inputs.moved.isdisjoint(one.members)

    def fetch(self, one: WantedSet, place: Place, copies: int, rule: PlacedFor) -> bool:
        """Have a set fetched if that pays and the churn allows it; returns whether it was.

        What is asked for often between evictions needs no help: the next requests bring it in.
        """
        rate = one.up / copies
        helped = rate * math.exp(-rate * place.room.eviction_age_s)
        if helped * self.rules.payback_s <= PAYS or not self.may_move(one):
            return False
        if not self._affords(one.members, place, promised=False):
            return False
        self.put(one.members, place, rule)
        return True

    def put(self, members: AdapterSet, place: Place, rule: PlacedFor) -> None:
        """Place a set on a replica, and have fetched what it lacks there."""
        one, missing = self.wanted.get(members), place.missing(members)
        for digest in missing:
            nbytes = self.sizes[digest]
            self._told += nbytes
            self._moves.append(
                Move(
                    place.room.replica_id,
                    digest,
                    MoveKind.PREFETCH,
                    reasons.fetch(rule, one, self.copies.get(members, 1), nbytes),
                    nbytes,
                    rule in _PROMISES,
                )
            )
        if one is not None and place not in self.whole[members]:
            self._shift_work(one, place, rule)
        if self.inputs.most:
            self.most.note(members, place)
        self.board.assign(members, place, missing, kept=rule in _KEPT)
        self.placed.setdefault(members, []).append(place)
        self._name(members, rule)

    def _takes(self, members: AdapterSet, place: Place, *, promised: bool = False) -> bool:
        fits = place.fits(members, self.sizes, promised=promised)
        return fits and (not self.inputs.most or self.most.allow(members, place))

    def _name(self, members: AdapterSet, rule: PlacedFor) -> None:
        if self._rule.setdefault(members, rule) is PlacedFor.COMING:
            self._rule[members] = rule

    def _shift_work(self, one: WantedSet, place: Place, rule: PlacedFor) -> None:
        """Give a replica that is to have a set its part of the set's work."""
        whole = self.whole[one.members]
        others = whole + [p for p in self.placed.get(one.members, ()) if p not in whole]
        taken = one.work if rule is PlacedFor.EVEN else one.work / (len(others) + 1)
        for other in others:
            self.board.add_work(other, -taken / len(others))
        self.board.add_work(place, taken)
        if not others:
            self.board.mean_work += taken / len(self.board.places)

    def _options(self, members: AdapterSet, most: int) -> list[Place]:
        """Return replicas for a set: those with most of it, then ``most`` with least work."""
        bound = self.rules.bound * self.board.mean_work

        def order(place: Place) -> tuple[int, bool, bool, tuple[float, int, int]]:
            return (
                sum([self.sizes[digest] for digest in place.missing(members)]),
                not place.before.issuperset(members),
                place.work > bound,
                place.busyness,
            )

        having = {place.index: place for digest in members for place in self.board.holders(digest)}
        return sorted(having.values(), key=order) + self.board.least_busy(most)

    def _affords(self, members: AdapterSet, place: Place, *, promised: bool) -> bool:
        """Return whether the churn that is left suffices for what has to be fetched."""
        nbytes = sum(self.sizes[digest] for digest in place.missing(members))
        left = self.inputs.churn
        if not nbytes or (left.unused and not self._told):
            return True
        return self._told + nbytes <= (left.urgent if promised else left.ordinary)

    def _why_not(self, members: AdapterSet) -> str:
        rooms = self.inputs.replicas
        nbytes = sum(self.sizes[digest] for digest in members)
        if all(nbytes > room.bytes_limit for room in rooms):
            return f"too large: its {nbytes} bytes are more than a replica has for adapters"
        if all(len(members) > room.slots for room in rooms):
            return f"too wide: {len(members)} adapters are more than a replica has slots"
        failed = {replica for replica, digest in self.inputs.avoid if digest in members}
        if failed.issuperset(room.replica_id for room in rooms):
            return "failed: no replica is left to try"
        bounded = self.most.reached(members)
        if bounded is not None:
            return f"bounded: a rule allows {bounded[1]} of {self.aliases[bounded[0]]} at most"
        return "no room: what is promised or in use takes all"

    # The answer

    def answer(self) -> Plan:
        """Return the plan so far."""
        moves = [*self._moves, *self._releases()]
        return Plan(
            desired={place.room.replica_id: tuple(place.assigned) for place in self.board.places},
            moves=tuple(sorted(moves, key=lambda m: (m.replica_id, m.kind, m.digest))),
            sets=tuple(self._described()),
            unplaced=tuple(sorted(self._unplaced.items())),
            kept={place.room.replica_id: frozenset(place.kept) for place in self.board.places},
        )

    def _releases(self) -> Iterable[Move]:
        """Say what was to be there and is not planned any more, and why."""
        for place in self.board.places:
            for digest in sorted(place.before - place.assigned.keys()):
                if digest in place.there:
                    words = self._why_released(digest)
                    yield Move(place.room.replica_id, digest, MoveKind.RELEASE, words)

    def _why_released(self, digest: AdapterDigest) -> str:
        if digest not in self.sizes:
            return "not listed: the catalog has it no more"
        if digest not in self._worth:
            return "no demand: no request asks for it"
        bounded = self.most.reached((digest,))
        if bounded is not None:
            return f"too many copies: a rule allows {bounded[1]} at most"
        for other in self.board.holders(digest):
            if digest in other.assigned and other.is_ready((digest,)):
                return f"served elsewhere: {other.room.replica_id} has it"
        return "denser sets: they need its room"

    def _described(self) -> Iterable[PlannedSet]:
        pins, previous, most = self.inputs.pins, self.inputs.previous, self.rules.most
        idle = sorted((d,) for d in pins if (d,) in self.placed and (d,) not in self.wanted)
        for members in (*idle, *self.wanted):
            placed = self.placed.get(members, [])
            if len(placed) > 1:
                placed = sorted(placed, key=lambda place: place.index)
            copies, pinned = self.copies.get(members, 0), 0
            if pins and len(members) == 1:
                pinned = pins.get(members[0], 0)
            yield PlannedSet(
                members,
                tuple([self.aliases[digest] for digest in members]),
                self._rule.get(members, PlacedFor.DEMAND),
                tuple([place.room.replica_id for place in placed]),
                len(self.whole.get(members, ())),
                pinned if pinned > copies else copies,
                previous.get(members, 1),
                pinned,
                self.most.of(members, most) if self.inputs.most else most,
                self.wanted.get(members),
            )
