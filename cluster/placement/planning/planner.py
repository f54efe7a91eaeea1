"""Places whole adapter sets on replicas: promises first, then what demand has brought in.

A plan is a series of steps. Each only adds to what those before it have placed, so the plan is
within its bounds after any of them. What is there stays where it is as long as nothing clearly
denser needs its room.
"""

from collections.abc import Callable, Sequence

from cluster.placement.demand.demand import AdapterSet
from cluster.placement.planning.board import Place
from cluster.placement.planning.draft import Draft
from cluster.placement.planning.owed import owed_sets
from cluster.placement.planning.plan import PlacedFor, Plan, PlanInputs, WantedSet
from cluster.placement.planning.rules import DENSER, PAYS

_RELIEVED = 64
"""Replicas that one plan relieves of work at most."""


def carry_on(draft: Draft) -> None:
    """Place once more what is on its way."""
    for members, places in draft.whole.items():
        for place in places:
            if (
                not place.coming.isdisjoint(members)
                and not place.before.isdisjoint(members)
                and place.fits(members, draft.sizes, promised=True)
                and draft.most.leave_room(members, place)
            ):
                draft.put(members, place, PlacedFor.COMING)


def keep_pins(draft: Draft) -> None:
    """Place the copies that pins name."""
    pins = draft.inputs.pins
    for digest in sorted(pins, key=lambda digest: (draft.aliases.get(digest, ""), digest)):
        if digest in draft.sizes:
            draft.promise((digest,), pins[digest], PlacedFor.PIN)


def restore_lost(draft: Draft) -> None:
    """Place elsewhere what only replicas had that died or leave."""
    lost = draft.inputs.lost
    for members in draft.wanted if lost else ():
        if not draft.whole[members] and not lost.isdisjoint(members):
            draft.promise(members, 1, PlacedFor.LOST)


def keep_least(draft: Draft) -> None:
    """Place the copies that the policy promises to sets with demand, the densest first.

    Of more than a rule of the policy allows, these are promised.
    """
    if draft.rules.least > 1 or draft.rules.promised:
        for members, one in draft.wanted.items():
            copies, by = one.promised
            most = draft.most.of(members, None)
            if copies > 1:
                copies = copies if most is None else min(copies, most)
                draft.promise(members, copies, PlacedFor.LEAST, by=by)


def add_copies(draft: Draft) -> None:
    """Fetch more copies of sets whose work is more than one replica is to do."""
    for members, one in draft.wanted.items():
        copies = draft.copies[members]
        if copies > 1:
            present = {
                place.index for place in (*draft.whole[members], *draft.placed.get(members, ()))
            }
            for _ in range(copies - len(present) if present else 0):  # demand brings in the first
                place = draft.find(one, present)
                if place is None or not draft.fetch(one, place, copies, PlacedFor.COPY):
                    break
                present.add(place.index)


def even_out(draft: Draft) -> None:
    """Have sets of replicas with much work fetched by those with little, while that pays.

    Sets that earlier steps have placed stay there.
    """
    board = draft.board
    most = draft.rules.bound * board.mean_work + 1e-9
    alone: dict[int, list[WantedSet]] = {}
    for members, places in draft.whole.items():
        if len(places) == 1 and places[0].work > most and not draft.placed.get(members):
            alone.setdefault(places[0].index, []).append(draft.wanted[members])
    for busy in board.busiest(_RELIEVED):
        sets = alone.get(busy.index, [])
        while busy.work > most and _relieve(draft, busy, sets):
            pass


def _relieve(draft: Draft, busy: Place, sets: list[WantedSet]) -> bool:
    """Move the set that lowers a replica's work most by byte; returns whether one was."""

    def order(one: WantedSet) -> tuple[float, AdapterSet]:
        return -one.work / max(1, sum([draft.sizes[d] for d in one.members])), one.members

    for one in sorted(sets, key=order):
        if not draft.may_move(one):
            continue
        place = draft.find(one, (busy.index,))
        if place is None or one.work >= busy.work - place.work:
            continue
        relief = one.work * (busy.work - place.work) * draft.inputs.work.crowding
        saved = relief - draft.lost(one, place)
        if saved * draft.rules.payback_s <= PAYS * one.load_s:
            continue
        if draft.fetch(one, place, 1, PlacedFor.EVEN):
            sets.remove(one)
            return True
    return False


def keep_brought(draft: Draft) -> None:
    """Place what demand has brought in where it is: what tenants are owed, then the densest.

    Of what is owed, what was placed before comes first: another tenant that asks for more does not
    take its room.
    """
    pools = (1.0 - draft.rules.spare) * len(draft.board.places)
    owed = owed_sets(draft.wanted.values(), draft.shares, draft.rules, pools)
    there = []
    for members, places in draft.whole.items():
        if places:
            stays = any(place.before.issuperset(members) for place in places)
            density = draft.wanted[members].density / draft.copies[members]
            beyond, held = members not in owed, DENSER if stays else 1.0
            there.append((beyond, not (beyond or stays), -density * held, members))
    for beyond, _, _, members in sorted(there):
        for _ in range(draft.copies[members] - draft.ready(members)):
            draft.keep(members, PlacedFor.KEPT if beyond else PlacedFor.OWED)


def keep_spilled(draft: Draft) -> None:
    """Place more copies of sets where picks have brought them, in room that nothing else has."""
    more = []
    for members, places in draft.whole.items():
        placed = len(draft.placed.get(members, ()))
        if placed < len(places):
            density = draft.wanted[members].density
            most = min(len(places), draft.most.of(members, draft.rules.most) or len(places))
            more += [(-density / copy, copy, members) for copy in range(placed + 1, most + 1)]
    for _, _, members in sorted(more):
        draft.keep(members, PlacedFor.KEPT)


Step = Callable[[Draft], None]
STEPS: tuple[Step, ...] = (
    carry_on,
    keep_pins,
    restore_lost,
    keep_least,
    add_copies,
    even_out,
    keep_brought,
    keep_spilled,
)


def plan(inputs: PlanInputs, steps: Sequence[Step] = STEPS) -> Plan:
    """Return the placement for the next tick. Pure; ``inputs`` may be in any order.

    ``steps`` are of ``STEPS``, in that order; those that are left out place nothing.
    """
    draft = Draft(inputs)
    for step in steps:
        step(draft)
    return draft.answer()
