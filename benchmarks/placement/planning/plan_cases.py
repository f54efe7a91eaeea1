"""Measures single cases of placing: a new replica, too many pins, few copies, sizes: N7, N10-N12.

python -m benchmarks.placement N7
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.placement.picking.spill import MODEL
from benchmarks.placement.planning.kept_sets import placed
from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import FIRST_SEED, count_range, measure_columns
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.cost.model import LoadCost, StepCost
from cluster.placement.demand.clocks import down_rate, hold_rate, up_rate
from cluster.placement.demand.demand import Demand, DemandKey, DemandRate
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.planning.plan import (
    AdapterInfo,
    ChurnLeft,
    PlanInputs,
    ReplicaRoom,
    ResidentCopy,
)
from cluster.placement.planning.planner import plan
from cluster.placement.planning.rules import PlanningRules
from cluster.placement.policy import AdapterRule, ClusterPolicy
from cluster.simulation.baselines.baseline_names import without_placement
from cluster.simulation.parts.simulated_cluster import SimulatedCluster
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import PolicyChanges, ReplicaSpec, SimulationSpec

SEEDS = 10
JOINS_S = 300.0
MB = 10**6
MOST_UNEVEN = 1.25
MOST_LOADS = 75
MOST_MISSING = 0.0


def rows(seeds: int = SEEDS) -> list[ResultRow]:
    """Return all rows."""
    return [new_replica_row(seeds), pins_row(seeds), copies_row(), sizes_row()]


# N7


def new_replica_row(seeds: int) -> ResultRow:
    """Measure how even the load is once a second replica has come."""
    shape = ReplicaSpec(slots=16, adapter_bytes=160 * MB)
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(1),
        catalog=(),
        shape=shape,
        model=MODEL,
        faults=(PolicyChanges(JOINS_S, ClusterPolicy.fixed(2)),),
    )
    source = NamedSource("constant,duration=900,rate=6,adapters=14,prompt=1,answer=24")
    wait_s = MODEL.start_s + 60.0 + 60.0 * 80 * MB / (PlanningRules().churn * 320 * MB)
    columns = (placed, without_placement)
    found = measure_columns(
        RunRecipe(base, source), columns, seeds, partial(_uneven, since=JOINS_S + wait_s), "N7"
    )
    on, off = ([f"{one:.2f}" for one in sorted(column)] for column in found)
    return ResultRow(
        "N7",
        "a second replica next to a full one (14 adapters of 10 MB in 16 slots, 6/s): requests of "
        "the busier one over the mean, from 60 s and the time that the churn takes for half of "
        "the adapters after its start on, simulated",
        "0 adapters move",
        f"<= {MOST_UNEVEN}",
        f"{statistics.fmean(found[0]):.2f}",
        f"{seeds} seeds, {on[0]} to {on[-1]}; without placing {off[0]} to {off[-1]}",
        max(found[0]) <= MOST_UNEVEN,
    )


def _uneven(result: SimulationResult, since: float) -> float:
    """Return the requests of the busier replica over the mean."""
    counts = Counter(one.replica for one in result.requests if one.asked.at >= since)
    return max(counts.values()) / (sum(counts.values()) / 2)


# N10


@dataclass(frozen=True, slots=True)
class PinFigures:
    """Figures of one run."""

    loads: int
    missing: float  # share of the time, over all pins


def pins_row(seeds: int) -> ResultRow:
    """Count loads where pins take all slots and something else is asked for."""
    found = [_pinned(FIRST_SEED + number) for number in range(seeds)]
    missing = statistics.fmean(one.missing for one in found)
    return ResultRow(
        "N10",
        "4 pins in 4 slots of one replica, a fifth adapter at 1/s for 300 s, simulated: loads, "
        "and the share of the time that a pin is missing; requests for the fifth are refused with "
        "the pins' names",
        "149 loads",
        f"<= {MOST_LOADS}, never",
        f"{statistics.fmean(one.loads for one in found):.0f} loads, {100 * missing:.1f} %",
        f"{seeds} seeds, {count_range([one.loads for one in found])} loads",
        max(one.loads for one in found) <= MOST_LOADS and missing <= MOST_MISSING,
    )


def _pinned(seed: int) -> PinFigures:
    policy = ClusterPolicy.fixed(1).model_copy(
        update={"adapters": tuple(AdapterRule(adapter=f"p{number}") for number in range(4))}
    )
    base = SimulationSpec(
        trace=(),
        policy=policy,
        catalog=(),
        shape=ReplicaSpec(slots=4, adapter_bytes=40 * MB),
        model=MODEL,
        until=300.0,
    )
    recipe = RunRecipe(base, NamedSource("constant,duration=300,rate=1,adapters=1,prompt=1"))
    spec = recipe(seed)
    pins = [
        AdapterInfo(AdapterDigest(f"pin-{number}"), f"p{number}", TenantId("acme"), 10 * MB)
        for number in range(4)
    ]
    cluster = SimulatedCluster(replace(spec, catalog=(*spec.catalog, *pins)), None)
    missed: list[float] = []

    def probe() -> None:
        ready = {
            adapter.digest
            for replica in cluster.serve.replicas
            for adapter in replica.adapters.resident()
            if adapter.state is AdapterState.READY
        }
        missed.append(sum(pin.digest not in ready for pin in pins) / len(pins))

    for second in range(10, 300):
        cluster.loop.at(float(second), probe)
    try:
        cluster.run()
        tiers = cluster.result().tiers
    finally:
        cluster.close()
    return PinFigures(tiers.loads_from_host + tiers.loads_from_disk, statistics.fmean(missed))


# N11 and N12


def copies_row() -> ResultRow:
    """Count the copies of one adapter on a hundred replicas."""
    rooms = [
        _room(f"r{number:02}", (("a", 10 * MB),) if not number else ()) for number in range(100)
    ]
    inputs = _inputs(rooms, {"a": (1.0, 10 * MB)})
    (one,) = plan(inputs).sets
    return ResultRow(
        "N11",
        "one adapter at 1/s on 100 replicas, one of which has it: copies planned",
        "89",
        "1",
        str(one.copies),
        "-",
        one.copies == 1 and not plan(inputs).moves,
    )


def sizes_row() -> ResultRow:
    """Add up the requests whose adapter is planned where one takes most of a pool."""
    asked = {"big": (1.2, 60 * MB), **{f"small-{n}": (1.0, 15 * MB) for n in range(6)}}
    there = [(name, nbytes) for name, (_, nbytes) in asked.items() if name != "big"]
    planned = plan(_inputs([_room("r0", there, nbytes=100 * MB)], asked))
    kept = [str(digest) for digest in planned.desired[ReplicaId("r0")]]
    warm = sum(asked[name][0] for name in kept)
    return ResultRow(
        "N12",
        "an adapter of 60 % of a pool at 1.2/s next to six of 15 % at 1/s, once all six have been "
        "there: requests a second whose adapter the plan keeps",
        "3.2 of 7.2",
        ">= 6.0",
        f"{warm:.1f} of {sum(rate for rate, _ in asked.values()):.1f}",
        "-",
        warm >= 6.0,
    )


def _room(
    name: str, resident: Sequence[tuple[str, int]], *, slots: int = 10, nbytes: int = 160 * MB
) -> ReplicaRoom:
    copies = tuple(
        ResidentCopy(AdapterDigest(digest), size, True, False) for digest, size in resident
    )
    return ReplicaRoom(ReplicaId(name), slots, nbytes, copies)


def _inputs(rooms: Sequence[ReplicaRoom], asked: dict[str, tuple[float, int]]) -> PlanInputs:
    rates = []
    for name, (rate, _) in sorted(asked.items()):
        key = DemandKey(TenantId("acme"), (AdapterDigest(name),))
        up, down, hold = up_rate(rate, rate), down_rate(rate, rate), hold_rate(rate, rate)
        rates.append(DemandRate(key, up, down, hold, 64.0, 32.0, rate, rate))
    plenty = 10**12
    return PlanInputs(
        replicas=tuple(rooms),
        adapters=tuple(
            AdapterInfo(AdapterDigest(name), name, TenantId("acme"), nbytes)
            for name, (_, nbytes) in asked.items()
        ),
        demand=Demand(tuple(rates)),
        rules=PlanningRules(),
        work=WorkModel(StepCost(), 16, 16, {}),
        load=LoadCost(0.1, 2.5e-8),
        churn=ChurnLeft(plenty, plenty),
    )
