"""N21: a large catalogue of adapters of all sizes, whose popularity drifts, in sets of 1 to 4.

The count of replicas is fixed, so columns differ in picks and placement alone.
"""

import hashlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.compared import (
    Compared,
    compare,
    compared_page,
    difference_text,
    write_compared,
)
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, TierPolicy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.promises import keeps_promise
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.statistics import quantile
from cluster.simulation.report.trials import Column
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import Delays, ReplicaSpec, SimulationSpec

SEEDS = 10
STEM = "placement-drifting"
REPLICAS, SLOTS = 32, 16
ADAPTERS, TENANTS = 500, 20
MIB = 2**20
RANK_BYTES = 1_250_000
"""Of one rank on all linear modules: 10 MB at rank 8, 160 MB at rank 128."""
RANKS, WEIGHTS = (8, 16, 32, 64, 128), (30, 30, 20, 12, 8)
DEVICE_BYTES, HOST_BYTES = 768 * MIB, 2048 * MIB
WARM_S = 120.0
"""Requests before this time only fill the pools."""
TRACE = f"drifting,duration=480,rate=16,adapters={ADAPTERS},tenants={TENANTS},prompt=192,answer=96"
PROMISE = TierPolicy(ttft=0.6, itl=0.15)
"""Half a second and a little: the time of a prompt, and hardly of a load."""
TICK_S = 2.0
"""Between the controller's looks; a look takes most of the simulation's time."""
POLICY = ClusterPolicy(
    tiers={"standard": PROMISE}, replicas=ReplicasPolicy(min=REPLICAS, max=REPLICAS)
)
APART = ("random", "least-loaded", "rendezvous", "slots")
"""Baselines that must be surely worse."""
OFF = "off"

ATTAINED = Figure("requests", "SLO attained", "%", "more")
TTFT = Figure("requests", "TTFT mean", "s")
LATE = Figure("requests", "TTFT p99", "s")
WHOLE = Figure("requests", "found whole on the device", "%", "more")
FAILED = Figure("requests", "refused or failed", "%")
LOADED = Figure("adapters", "loaded to devices", "MB")
ORDERED = Figure("adapters", "of these by the controller's word", "MB")


@dataclass(frozen=True, slots=True)
class SizedCatalog:
    """The adapters of the trace, and their ranks."""

    adapters: tuple[AdapterInfo, ...]
    ranks: dict[AdapterDigest, int]


@cache
def catalog() -> SizedCatalog:
    """Return the adapters with ranks that are drawn once, whatever their popularity."""
    rng = Random("ranks of drifting sets")
    adapters, ranks = [], {}
    for number in range(ADAPTERS):
        name = f"a{number:04d}"
        digest = AdapterDigest(hashlib.sha256(name.encode()).hexdigest())
        (rank,) = rng.choices(RANKS, WEIGHTS)
        tenant = TenantId(f"tenant-{number % TENANTS}")
        adapters.append(AdapterInfo(digest, name, tenant, rank * RANK_BYTES))
        ranks[digest] = rank
    return SizedCatalog(tuple(adapters), ranks)


def drifting_figures(result: SimulationResult) -> dict[Figure, float]:
    """Read the figures of one run; those of requests count from ``WARM_S`` on."""
    late = [one for one in result.requests if one.asked.at >= WARM_S]
    ttft = sorted(one.ttft for one in late if one.ttft is not None)
    tiers = result.tiers
    return {
        ATTAINED: statistics.fmean(keeps_promise(one, POLICY) for one in late),
        TTFT: statistics.fmean(ttft),
        LATE: quantile(ttft, 0.99),
        WHOLE: statistics.fmean(one.tier_found == "device" for one in late),
        FAILED: statistics.fmean(one.outcome != "ok" for one in late),
        LOADED: (tiers.bytes_from_host + tiers.bytes_from_disk) / 1e6,
        ORDERED: result.bytes_moved / 1e6,
    }


def _as_it_is(spec: SimulationSpec) -> SimulationSpec:
    return spec


def columns() -> list[Column]:
    """Return Braid's column and those with other picks, or without placement."""
    rivals = [BASELINES[name] for name in (OFF, *APART)]
    return [
        Column("Braid", "picks and placement", _as_it_is),
        *(Column(one.name, one.what, one.change) for one in rivals),
    ]


def drifting_recipe(trace: str = TRACE) -> RunRecipe:
    """Return the cluster under a trace of drifting sets."""
    found = catalog()
    base = SimulationSpec(
        trace=(),
        policy=POLICY,
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS, adapter_bytes=DEVICE_BYTES, host_bytes=HOST_BYTES),
        replicas=REPLICAS,
        delays=Delays(tick_s=TICK_S),
        ranks=found.ranks,
    )
    known = {name: info for info in found.adapters for name in (info.alias, info.digest)}
    return RunRecipe(base, NamedSource(trace), known)


def rows(seeds: int = SEEDS, out: Path | None = None) -> list[ResultRow]:
    """Return the row; with ``out`` the page of all figures is written there."""
    found = compare(drifting_recipe(), columns(), seeds, drifting_figures, "N21")
    if out is not None:
        title = "Sets of adapters whose popularity drifts"
        write_compared(out, STEM, compared_page(title, _lines(), found))
    return [row_of(found)]


def row_of(found: Compared) -> ResultRow:
    """Return the row of what was found."""
    missed = list(shortfalls(found))
    others = "; ".join(
        f"{found.name(column)} {_words(found, column)} "
        f"({_difference(found, ATTAINED, column)}, {_difference(found, TTFT, column)})"
        for column in found.rivals
    )
    return ResultRow(
        name="N21",
        what=(
            f"{ADAPTERS} adapters of ranks {RANKS[0]} to {RANKS[-1]}, sets of 1 to 4 by a power "
            f"law that drifts, {REPLICAS} replicas, simulated, after {WARM_S:.0f} s: requests "
            f"within {PROMISE.ttft:g} s to the first token and {PROMISE.itl:g} s between tokens, "
            f"mean TTFT, bytes loaded to devices from the start, for "
            f"whatever reason; all figures are in docs/results/{STEM}.md"
        ),
        before="hits only, constant service",
        demanded=(
            "both better than random, least loaded, rendezvous and slots in proportion to load, "
            "intervals apart; neither surely worse than off; fewer bytes than these four"
        ),
        after=_words(found, 0) + (f"; missed: {'; '.join(missed)}" if missed else ""),
        interval=f"{found.seeds} seeds, 95 %, in brackets more than Braid, seed by seed: {others}",
        met=None if found.seeds < 2 else not missed,
    )


def shortfalls(found: Compared) -> Iterator[str]:
    """Yield what is not as demanded."""
    for column in found.rivals:
        name = found.name(column)
        for figure in (ATTAINED, TTFT):
            if name == OFF:
                if found.is_better(figure, column):
                    yield f"{figure.name} surely worse than {name}"
            elif not found.is_apart(figure, column):
                yield f"{figure.name} not apart from {name}"
        if name != OFF and found.mean(LOADED, column).mean <= found.mean(LOADED).mean:
            yield f"more bytes than {name}"


def _words(found: Compared, column: int) -> str:
    return ", ".join(
        interval_text(found.mean(figure, column), figure.unit)
        for figure in (ATTAINED, TTFT, LOADED)
    )


def _difference(found: Compared, figure: Figure, column: int) -> str:
    return difference_text(found.difference(figure, column), figure)


def _lines() -> Iterator[str]:
    yield (
        "Written by `python -m benchmarks.placement N21`; do not edit. Costs are the simulator's "
        "defaults: a small model on two cores. Engine `fast`, and the controller looks each "
        f"{TICK_S:g} s."
    )
    yield ""
    yield f"- Trace: `{TRACE}`. Requests count after {WARM_S:.0f} s, bytes from the start."
    shares = ", ".join(f"{rank}: {share} %" for rank, share in zip(RANKS, WEIGHTS, strict=True))
    total = sum(info.nbytes for info in catalog().adapters)
    yield (
        f"- Ranks: {shares}, drawn for each adapter whatever its popularity; {RANK_BYTES / 1e6:g} "
        f"MB a rank, {total / 1e9:.1f} GB in all."
    )
    yield (
        f"- {REPLICAS} replicas of {SLOTS} slots and {DEVICE_BYTES // MIB} MiB for adapters on the "
        f"device ({REPLICAS * DEVICE_BYTES / 1e9:.1f} GB in all) and {HOST_BYTES // MIB} MiB in "
        "host memory."
    )
