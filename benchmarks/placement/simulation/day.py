"""A day in virtual time: every baseline of the simulator serves the same requests.

Three tiers of tenants follow the sun; one tenant's requests come five times as often for ten
minutes; a replica dies at noon; and a tenant without a tier sends bursts of adapters that no one
asks for twice, and later a flood. Its own requests are in no figure but hours and bytes.

A rival is judged where it takes no more replica-hours, that is, not surely more than Braid.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.compared import (
    Compared,
    compare,
    compared_page,
    difference_text,
    write_compared,
)
from benchmarks.placement.simulation.day_trace import (
    BURST_RATE,
    BURSTS_S,
    CROWD_S,
    CROWD_TIMES,
    CROWDED,
    DAY_S,
    FLOOD_RATE,
    FLOOD_S,
    LEAST,
    NOON_S,
    PEAK,
    TIERS,
    DaySource,
)
from cluster.config import EngineConfig
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.baselines.counts import FixedCount
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.promises import keeps_promise, tier_name
from cluster.simulation.report.recipe import RunRecipe
from cluster.simulation.report.statistics import quantile
from cluster.simulation.report.trials import Column
from cluster.simulation.result import ServedRequest, SimulationResult
from cluster.simulation.spec import Delays, ReplicaDies, ReplicaSpec, SimulationSpec

SEEDS = 10
STEM = "placement-day"
FEWEST, MOST = 2, 8
SLOTS = 16
TICK_S = 2.0
"""Between the controller's looks; a look takes most of the simulation's time."""
HOST_BYTES = 256 * 2**20
FIXED = (5, MOST)
"""Counts that never change: about as many replicas as Braid has in the mean, and the most."""
POLICY = ClusterPolicy(
    tiers={tier.name: tier.promise for tier in TIERS},
    tenants={f"{tier.name}-*": tier.name for tier in TIERS},
    replicas=ReplicasPolicy(min=FEWEST, max=MOST),
)
ATTAINED = {tier.name: Figure(tier.name, "SLO attained", "%", "more") for tier in TIERS}
LATE = {tier.name: Figure(tier.name, "TTFT p99", "s") for tier in TIERS}
HOURS = Figure("replicas", "hours", "h")
LOADED = Figure("adapters", "loaded to devices", "MB")
ORDERED = Figure("adapters", "of these by the controller's word", "MB")
FAILED = Figure("requests", "refused or failed", "%")


def day_figures(result: SimulationResult) -> dict[Figure, float]:
    """Read the figures of one run."""
    served: dict[str, list[ServedRequest]] = {tier.name: [] for tier in TIERS}
    for one in result.requests:
        if (tier := tier_name(POLICY, one.asked.tenant)) in served:
            served[tier].append(one)
    tiers = result.tiers
    return {
        **{ATTAINED[name]: _attained(of_tier) for name, of_tier in served.items()},
        **{LATE[name]: _late(of_tier) for name, of_tier in served.items()},
        HOURS: result.replica_seconds / 3600,
        LOADED: (tiers.bytes_from_host + tiers.bytes_from_disk) / 1e6,
        ORDERED: result.bytes_moved / 1e6,
        FAILED: statistics.fmean(one.outcome != "ok" for all_ in served.values() for one in all_),
    }


def _attained(served: Sequence[ServedRequest]) -> float:
    return statistics.fmean(keeps_promise(one, POLICY) for one in served)


def _late(served: Sequence[ServedRequest]) -> float:
    return quantile(sorted(one.ttft for one in served if one.ttft is not None), 0.99)


def _fixed(spec: SimulationSpec, count: int) -> SimulationSpec:
    return replace(spec, replicas=count, scaler=FixedCount(count))


def columns() -> list[Column]:
    """Return Braid's own column, all baselines, and counts that never change."""
    named = [
        Column(one.name, one.what, one.change)
        for one in BASELINES.values()
        if one.name != "fixed"  # as many as at midnight
    ]
    fixed = [
        Column(f"fixed {count}", f"always {count} replicas", partial(_fixed, count=count))
        for count in FIXED
    ]
    return [Column("Braid", "picks, placement and count", _as_it_is), *named, *fixed]


def _as_it_is(spec: SimulationSpec) -> SimulationSpec:
    return spec


def day_recipe() -> RunRecipe:
    """Return the day's cluster."""
    base = SimulationSpec(
        trace=(),
        policy=POLICY,
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS, host_bytes=HOST_BYTES, engine=EngineConfig(kv_blocks=2048)),
        replicas=FEWEST,
        delays=Delays(tick_s=TICK_S),
        faults=(ReplicaDies(NOON_S, 0),),
    )
    return RunRecipe(base, DaySource())


def rows(seeds: int = SEEDS, out: Path | None = None) -> list[ResultRow]:
    """Return the day's row; with ``out`` the page of all figures is written there."""
    found = compare(day_recipe(), columns(), seeds, day_figures, "a day")
    if out is not None:
        write_compared(out, STEM, compared_page("A day in virtual time", _lines(), found))
    return [row_of(found)]


def row_of(found: Compared) -> ResultRow:
    """Return the row of what was found."""
    ahead = dict(rivals_ahead(found))
    judged = [column for column in found.rivals if is_judged(found, column)]
    attained = ", ".join(
        f"{name} {interval_text(found.mean(figure), '%')}" for name, figure in ATTAINED.items()
    )
    others = "; ".join(
        f"{found.name(column)}{'' if column in judged else ' (more hours, not judged)'} "
        + _differences(found, column)
        for column in found.rivals
    )
    return ResultRow(
        name="day",
        what=(
            f"a day in {DAY_S:.0f} s, {FEWEST} to {MOST} replicas of {SLOTS} slots, three tiers, "
            f"{LEAST * PEAK:g} to {PEAK:g} requests/s, a flash crowd, a replica that dies at noon, "
            "a tenant that sends one-off adapters and a flood, simulated: requests within their "
            f"tier's promise; all figures are in docs/results/{STEM}.md"
        ),
        before="not measured",
        demanded=(
            "in each tier no baseline attains surely more (95 %, seed by seed) of those that do "
            "not surely take more replica-hours"
        ),
        after=(
            f"{attained}; {interval_text(found.mean(HOURS), HOURS.unit)}, "
            f"{interval_text(found.mean(LOADED), LOADED.unit)} loaded; "
            + (
                "ahead of Braid: "
                + "; ".join(f"{found.name(c)} in {', '.join(t)}" for c, t in ahead.items())
                if ahead
                else f"none of the {len(judged)} that are judged is ahead"
            )
        ),
        interval=f"{found.seeds} seeds, 95 %; attained and hours more than Braid's: {others}",
        met=None if found.seeds < 2 else not ahead,
    )


def is_judged(found: Compared, column: int) -> bool:
    """Report whether a rival does not surely take more replica-hours."""
    return not found.is_worse(HOURS, column)


def rivals_ahead(found: Compared) -> Iterator[tuple[int, list[str]]]:
    """Yield the judged rivals that attain surely more in a tier, and in which."""
    for column in found.rivals:
        tiers = [name for name, figure in ATTAINED.items() if found.is_better(figure, column)]
        if tiers and is_judged(found, column):
            yield column, tiers


def _differences(found: Compared, column: int) -> str:
    figures: Mapping[str, Figure] = {**ATTAINED, "hours": HOURS}
    return ", ".join(
        f"{name} {difference_text(found.difference(figure, column), figure)}"
        for name, figure in figures.items()
    )


def _lines() -> Iterator[str]:
    yield (
        "Written by `python -m benchmarks.placement day`; do not edit. Costs are the simulator's "
        "defaults: a small model on two cores, replicas start in 30 s. Engine `fast`, and the "
        f"controller looks each {TICK_S:g} s."
    )
    yield ""
    yield (
        f"- A day takes {DAY_S:.0f} s: the load follows a sine from {LEAST:g} of its peak "
        f"({PEAK:g} requests/s) at midnight, where it begins, to the peak at noon and back."
    )
    for tier in TIERS:
        promise = tier.promise
        yield (
            f"- {tier.name}: {tier.tenants} tenants, {tier.share:.0%} of the load, prompts of "
            f"{tier.prompt} and answers of {tier.answer} tokens (medians); promised a first token "
            f"within {promise.ttft:g} s, and {promise.itl:g} s between tokens; weight "
            f"{promise.weight}."
        )
    yield (
        "- Each tenant has four adapters, asked for by Zipf's law; a quarter of the requests ask "
        "for two."
    )
    yield f"- Flash crowd: {CROWDED} asks {CROWD_TIMES:g} times as often, {_span(CROWD_S)}."
    yield f"- At {NOON_S:.0f} s, noon, the first replica dies."
    yield (
        f"- A tenant without a tier asks for {BURST_RATE:g} adapters a second of which none is "
        f"asked for twice, {', '.join(map(_span, BURSTS_S))}, and sends {FLOOD_RATE:g} requests/s "
        f"more for four others, {_span(FLOOD_S)}. Its requests are in no figure but hours and "
        "bytes."
    )
    yield (
        f"- {FEWEST} to {MOST} replicas of {SLOTS} slots, host memory for 26 adapters each. "
        "Columns that differ in the pick or the placement have Braid's count, and columns that "
        "differ in the count have Braid's picks and placement."
    )


def _span(window: tuple[float, float]) -> str:
    return f"{window[0]:.0f} to {window[1]:.0f} s"
