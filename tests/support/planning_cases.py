"""Demand, replicas and plans for the planner's tests, with few words."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.cost.model import LoadCost, StepCost
from cluster.placement.demand.clocks import down_rate, hold_rate, up_rate
from cluster.placement.demand.demand import Demand, DemandKey, DemandRate
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.planning.plan import (
    AdapterInfo,
    ChurnLeft,
    MoveKind,
    Plan,
    PlanInputs,
    PlannedSet,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.planning.rules import PlanningRules

PLENTY = ChurnLeft(10**9, 4 * 10**9)
SECONDS = 0.1
"""Seconds of a replica that each request takes."""
NBYTES = 10


def rate_of(
    tenant: str, names: Iterable[str], fast: float, slow: float | None = None
) -> DemandRate:
    """Return the demand of a tenant for a set; by default both clocks agree."""
    slow = fast if slow is None else slow
    key = DemandKey(TenantId(tenant), tuple(sorted(AdapterDigest(name) for name in names)))
    up, down, hold = up_rate(fast, slow), down_rate(fast, slow), hold_rate(fast, slow)
    return DemandRate(key, up, down, hold, 1.0, 0.0, fast, slow)


def demand_of(*rates: DemandRate, **per_second: float) -> Demand:
    """Return the demand for sets, and of tenant "acme" for one adapter each."""
    alone = [rate_of("acme", name, rate) for name, rate in per_second.items() if rate]
    return Demand(tuple(sorted([*rates, *alone], key=lambda rate: rate.key)))


def room_of(
    replica_id: str,
    resident: str = "",
    *,
    slots: int = 4,
    nbytes: int = 1000,
    desired: str | None = None,
    busy: str = "",
    coming: str = "",
    age_s: float = 0.0,
) -> ReplicaRoom:
    """Return a replica with adapters of one letter; by default they are its plan."""
    copies = [ResidentCopy(AdapterDigest(n), NBYTES, True, n in busy) for n in resident]
    copies += [ResidentCopy(AdapterDigest(n), NBYTES, False, True) for n in coming]
    told = resident if desired is None else desired
    return ReplicaRoom(
        ReplicaId(replica_id),
        slots,
        nbytes,
        tuple(copies),
        tuple(AdapterDigest(name) for name in told),
        age_s,
    )


def inputs_of(
    rooms: Iterable[ReplicaRoom],
    demand: Demand,
    *,
    names: str = "abcdefgh",
    sizes: Mapping[str, int] | None = None,
    pins: Mapping[str, int] | None = None,
    rules: PlanningRules | None = None,
    churn: ChurnLeft = PLENTY,
    lost: str = "",
    **others,
) -> PlanInputs:
    """Return a planner's inputs; every adapter takes a second to load."""
    return PlanInputs(
        replicas=tuple(rooms),
        adapters=tuple(
            AdapterInfo(AdapterDigest(n), n, TenantId("acme"), (sizes or {}).get(n, NBYTES))
            for n in names
        ),
        demand=demand,
        rules=rules or PlanningRules(),
        work=WorkModel(StepCost(0.0, SECONDS, 0.0, 0.0, 0.0, 0.0), 1, 16, {}),
        load=LoadCost(1.0, 0.0),
        churn=churn,
        pins={AdapterDigest(name): copies for name, copies in (pins or {}).items()},
        lost=frozenset(AdapterDigest(name) for name in lost),
        **others,
    )


def follow(inputs: PlanInputs, planned: Plan) -> PlanInputs:
    """Return the inputs of the next plan, once every replica has followed its plan.

    What is not desired goes where its room is needed.
    """
    sizes = {info.digest: info.nbytes for info in inputs.adapters}
    rooms = []
    for room in inputs.replicas:
        desired = planned.desired[room.replica_id]
        there = {copy.digest: copy._replace(ready=True) for copy in room.resident}
        for digest in desired:
            there.setdefault(digest, ResidentCopy(digest, sizes[digest], True, False))
        idle = sorted(d for d, copy in there.items() if not copy.busy and d not in desired)
        while idle and (
            len(there) > room.slots or sum(c.nbytes for c in there.values()) > room.bytes_limit
        ):
            del there[idle.pop()]
        resident = tuple(there.values())
        rooms.append(replace(room, resident=resident, desired=desired))
    fetched = {
        move.digest
        for move in planned.moves
        if move.kind is MoveKind.PREFETCH and not move.promised
    }
    return replace(
        inputs,
        replicas=tuple(rooms),
        previous={one.members: one.copies for one in planned.sets if one.copies > 1},
        moved=inputs.moved | fetched,
        lost=frozenset(),
    )


def fetched(planned: Plan) -> list[tuple[str, str]]:
    """Return where the plan fetches what."""
    return [
        (move.replica_id, move.digest) for move in planned.moves if move.kind is MoveKind.PREFETCH
    ]


def released(planned: Plan) -> list[tuple[str, str]]:
    """Return what the plan releases, and where."""
    return [
        (move.replica_id, move.digest) for move in planned.moves if move.kind is MoveKind.RELEASE
    ]


def planned_set(planned: Plan, *names: str) -> PlannedSet:
    """Return the set of these adapters in a plan that has it once."""
    (found,) = [one for one in planned.sets if one.members == names]
    return found
