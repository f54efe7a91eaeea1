"""Measures the time and the memory of a plan of 10,000 adapters on 1,000 replicas of 16 slots: N4.

Garbage is collected as often as in a controller.

python -m benchmarks.placement N4
"""

import gc
import itertools
import random
import time
import tracemalloc
from dataclasses import replace

from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.garbage import spare_long_lived
from cluster.placement.cost.model import LoadCost, StepCost
from cluster.placement.demand.clocks import down_rate, hold_rate, up_rate
from cluster.placement.demand.demand import AdapterSet, Demand, DemandKey, DemandRate
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.planning.budget import ChurnBudget
from cluster.placement.planning.plan import (
    AdapterInfo,
    MoveKind,
    Plan,
    PlanInputs,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.planning.planner import plan
from cluster.placement.planning.rules import PlanningRules

ADAPTERS, SETS, REPLICAS, SLOTS, TENANTS = 10_000, 15_000, 1_000, 16, 40
NBYTES = 10_000_000
RATE = 2_000.0  # requests per second of the whole cluster
ROUNDS = 5
MOST_S = 0.7
MOST_MIB = 256.0


def demand(rng: random.Random) -> Demand:
    """Return the demand for single adapters and for sets of two or three, by Zipf's popularity."""
    sets: list[AdapterSet] = [(_digest(number),) for number in range(ADAPTERS)]
    while len(sets) < SETS:
        numbers = rng.sample(range(ADAPTERS), rng.choice((2, 2, 3)))
        sets.append(tuple(sorted(_digest(number) for number in numbers)))
    rng.shuffle(sets)
    total = sum(1.0 / rank for rank in range(1, SETS + 1))
    rates = [
        _rate(TenantId(f"tenant-{rng.randrange(TENANTS)}"), members, RATE / rank / total)
        for rank, members in enumerate(sets, start=1)
    ]
    return Demand(tuple(sorted(rates, key=lambda rate: rate.key)))


def problem(rng: random.Random) -> PlanInputs:
    """Return the inputs of a plan of empty replicas."""
    return PlanInputs(
        replicas=tuple(
            ReplicaRoom(ReplicaId(f"r{number:04}"), SLOTS, SLOTS * NBYTES)
            for number in range(REPLICAS)
        ),
        adapters=tuple(
            AdapterInfo(_digest(number), f"a{number}", TenantId("shared"), NBYTES)
            for number in range(ADAPTERS)
        ),
        demand=demand(rng),
        rules=PlanningRules(),
        work=WorkModel(StepCost(), 16, 16, {}),
        load=LoadCost(0.1, 2.5e-8),
        churn=ChurnBudget().left(int(PlanningRules().churn * REPLICAS * SLOTS * NBYTES), 0, 0.0),
    )


def obeyed(inputs: PlanInputs, planned: Plan) -> PlanInputs:
    """Return the inputs of the next plan once all replicas have what they are to have."""
    rooms = []
    for room in inputs.replicas:
        desired = planned.desired[room.replica_id]
        kept = [copy for copy in room.resident if copy.digest not in desired]
        there = [ResidentCopy(digest, NBYTES, True, False) for digest in desired]
        rooms.append(replace(room, desired=desired, resident=tuple((there + kept)[:SLOTS])))
    fetched = (move.digest for move in planned.moves if move.kind is MoveKind.PREFETCH)
    return replace(inputs, replicas=tuple(rooms), moved=inputs.moved | frozenset(fetched))


def filled(inputs: PlanInputs) -> PlanInputs:
    """Return the inputs once the busiest sets have been brought in by demand."""
    free = {room.replica_id: SLOTS for room in inputs.replicas}
    held: dict[ReplicaId, list[AdapterDigest]] = {replica: [] for replica in free}
    turn = itertools.cycle(free)
    for rate in sorted(inputs.demand.rates, key=lambda rate: (-rate.slow, rate.key)):
        replica = next(turn)
        new = [digest for digest in rate.key.adapters if digest not in held[replica]]
        if len(new) <= free[replica]:
            held[replica] += new
            free[replica] -= len(new)
    return replace(
        inputs,
        replicas=tuple(
            replace(
                room,
                resident=tuple(
                    ResidentCopy(digest, NBYTES, True, False) for digest in held[room.replica_id]
                ),
            )
            for room in inputs.replicas
        ),
    )


def drifted(inputs: PlanInputs, rng: random.Random) -> PlanInputs:
    """Return the inputs with a twentieth of all rates changed."""
    rates = [
        _rate(rate.key.tenant, rate.key.adapters, rate.fast * rng.choice((0.2, 5.0)))
        if rng.random() < 0.05
        else rate
        for rate in inputs.demand.rates
    ]
    return replace(inputs, demand=Demand(tuple(rates)))


def bereft(inputs: PlanInputs) -> PlanInputs:
    """Return the inputs with a tenth of all replicas lost."""
    left, gone = inputs.replicas[REPLICAS // 10 :], inputs.replicas[: REPLICAS // 10]
    kept = {copy.digest for room in left for copy in room.resident}
    lost = {copy.digest for room in gone for copy in room.resident} - kept
    return replace(inputs, replicas=left, lost=frozenset(lost))


def rows(seed: int = 0) -> list[ResultRow]:
    """Return the one row."""
    spare_long_lived()
    rng = random.Random(seed)
    empty = problem(rng)
    rest = filled(empty)
    for _ in range(5):
        rest = obeyed(rest, plan(rest))
    rest = replace(rest, moved=frozenset())
    cases = {
        "from empty": empty,
        "at rest": rest,
        "5 % of rates changed": drifted(rest, rng),
        "10 % of replicas lost": bereft(rest),
    }
    times = {name: [_seconds(inputs) for _ in range(ROUNDS)] for name, inputs in cases.items()}
    memory = _peak_mib(rest)
    longest = max(sorted(found)[ROUNDS // 2] for found in times.values())
    return [
        ResultRow(
            "N4",
            f"a plan of {ADAPTERS:,} adapters in {SETS:,} sets of {TENANTS} tenants over "
            f"{REPLICAS:,} replicas of {SLOTS} slots, one core: seconds, and the memory that it "
            "takes in addition to its inputs",
            "6.6 s at rest, 8.9 to 11 s drifted",
            f"<= {MOST_S:g} s each, <= {MOST_MIB:g} MiB",
            "; ".join(f"{name} {sorted(found)[ROUNDS // 2]:.2f} s" for name, found in times.items())
            + f"; {memory:.0f} MiB",
            f"medians of {ROUNDS}; "
            + "; ".join(f"{min(found):.2f} to {max(found):.2f} s" for found in times.values()),
            longest <= MOST_S and memory <= MOST_MIB,
        )
    ]


def _seconds(inputs: PlanInputs) -> float:
    gc.collect()
    began = time.process_time()
    plan(inputs)
    return time.process_time() - began


def _peak_mib(inputs: PlanInputs) -> float:
    gc.collect()
    tracemalloc.start()
    plan(inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def _digest(number: int) -> AdapterDigest:
    return AdapterDigest(f"{number:064}")


def _rate(tenant: TenantId, members: AdapterSet, rate: float) -> DemandRate:
    key = DemandKey(tenant, members)
    up, down, hold = up_rate(rate, rate), down_rate(rate, rate), hold_rate(rate, rate)
    return DemandRate(key, up, down, hold, 64.0, 32.0, rate, rate)
