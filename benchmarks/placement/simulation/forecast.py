"""Measures forecasts: on short days with steep mornings, and at a rate that stays.

All figures are of the last day, when the rule of the days has been compared with the trend.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.compared import (
    Compared,
    compare,
    compared_page,
    difference_text,
    write_compared,
)
from benchmarks.placement.simulation.forecast_traces import (
    DAY,
    DAY_S,
    DAYS,
    HIGHER,
    LATER_S,
    MORNING_S,
    NIGHT,
    PEAK,
    RISE_S,
    TIERS,
    ForecastSource,
)
from cluster.config import EngineConfig
from cluster.placement.policy import ClusterPolicy, PlacementPolicy, ReplicasPolicy
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.promises import keeps_promise, tier_name
from cluster.simulation.report.recipe import RunRecipe
from cluster.simulation.report.statistics import quantile
from cluster.simulation.report.trials import Column
from cluster.simulation.result import ServedRequest, SimulationResult
from cluster.simulation.spec import Delays, ReplicaSpec, SimulationSpec

SEEDS = 5
STEM = "placement-forecast"
MOST = 10
TICK_S = 2.0
LAST_S = (DAYS - 1) * DAY_S
RUSH_S = (LAST_S + MORNING_S - LATER_S, LAST_S + MORNING_S + RISE_S + 2 * LATER_S)
RULES: tuple[Literal["off", "trend", "daily"], ...] = ("off", "trend", "daily")
WHAT = {
    "off": "replicas for the load that is there",
    "trend": "for what the last minutes lead to",
    "daily": "for this time of day, where that was nearer than the trend",
}
STEADY = {"constant": 1.0, "noisy": 3.0}
"""Coefficients of variation of the gaps between a tenant's requests."""
POLICY = ClusterPolicy(
    tiers={tier.name: tier.promise for tier in TIERS},
    tenants={f"{tier.name}-*": tier.name for tier in TIERS},
    replicas=ReplicasPolicy(min=1, max=MOST),
    placement=PlacementPolicy(mode="off"),
)
ATTAINED = {tier.name: Figure(tier.name, "SLO attained", "%", "more") for tier in TIERS}
RUSH = {tier.name: Figure(tier.name, "attained in the rush", "%", "more") for tier in TIERS}
LATE = {tier.name: Figure(tier.name, "TTFT p99", "s") for tier in TIERS}
RUSH_LATE = {tier.name: Figure(tier.name, "TTFT p99 in the rush", "s") for tier in TIERS}
HOURS = Figure("replicas", "hours", "h")
CHANGES = Figure("replicas", "changes of the count", "")
MOST_HOURS = 1.03
"""Times those of no forecast, at a rate that does not change."""


def forecast_figures(result: SimulationResult) -> dict[Figure, float]:
    """Read the figures of the last day."""
    late = [one for one in result.requests if one.asked.at >= LAST_S]
    rush = [one for one in late if RUSH_S[0] <= one.asked.at < RUSH_S[1]]
    samples = [sample for sample in result.samples if LAST_S <= sample.at < DAYS * DAY_S]
    both = list(itertools.pairwise(samples))
    return {
        **{ATTAINED[tier.name]: _attained(late, tier.name) for tier in TIERS},
        **{LATE[tier.name]: _late(late, tier.name) for tier in TIERS},
        **{RUSH[tier.name]: _attained(rush, tier.name) for tier in TIERS},
        **{RUSH_LATE[tier.name]: _late(rush, tier.name) for tier in TIERS},
        HOURS: sum((a.ready + a.starting) * (b.at - a.at) for a, b in both) / 3600,
        CHANGES: float(sum(a.target != b.target for a, b in both)),
    }


def _attained(served: Sequence[ServedRequest], tier: str) -> float:
    return statistics.fmean(keeps_promise(one, POLICY) for one in _of(served, tier))


def _late(served: Sequence[ServedRequest], tier: str) -> float:
    found = (one.ttft for one in _of(served, tier))
    return quantile(sorted(ttft for ttft in found if ttft is not None), 0.99)


def _of(served: Sequence[ServedRequest], tier: str) -> list[ServedRequest]:
    return [one for one in served if tier_name(POLICY, one.asked.tenant) == tier]


def _by_rule(spec: SimulationSpec, rule: Literal["off", "trend", "daily"]) -> SimulationSpec:
    replicas = spec.policy.replicas.model_copy(update={"forecast": rule})
    return replace(spec, policy=spec.policy.model_copy(update={"replicas": replicas}))


def columns() -> list[Column]:
    """Return a column for each rule."""
    return [Column(rule, WHAT[rule], partial(_by_rule, rule=rule)) for rule in RULES]


def recipe(cv: float | None = None) -> RunRecipe:
    """Return the cluster of the days, or of a rate that does not change."""
    base = SimulationSpec(
        trace=(),
        policy=POLICY,
        catalog=(),
        shape=ReplicaSpec(slots=16, engine=EngineConfig(kv_blocks=2048)),
        delays=Delays(tick_s=TICK_S, publish_s=0.5, heartbeat_s=TICK_S),
        day=DAY,
    )
    return RunRecipe(base, ForecastSource(cv))


def rows(seeds: int = SEEDS, out: Path | None = None) -> list[ResultRow]:
    """Return the row; with ``out`` the page of the days' figures is written there."""
    days = compare(recipe(), columns(), seeds, forecast_figures, "forecast, days")
    if out is not None:
        write_compared(out, STEM, compared_page("Days with forecasts", _lines(), days))
    steady = {
        name: compare(recipe(cv), columns(), seeds, forecast_figures, f"forecast, {name}")
        for name, cv in STEADY.items()
    }
    return [row_of(days, steady)]


def row_of(days: Compared, steady: dict[str, Compared]) -> ResultRow:
    """Return the row of what was found."""
    calm = all(
        most_more_changes(found, column) <= 1
        and found.mean(HOURS, column).mean <= MOST_HOURS * found.mean(HOURS).mean
        for found in steady.values()
        for column in found.rivals
    )
    at_rest = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{found.name(column)} {found.mean(CHANGES, column).mean:.1f} changes, "
            f"{interval_text(found.mean(HOURS, column), HOURS.unit)}"
            for column in range(len(RULES))
        )
        for name, found in steady.items()
    )
    return ResultRow(
        name="forecast",
        what=(
            f"the last of {DAYS} days of {DAY_S:.0f} s, {NIGHT * PEAK:g} to {PEAK:g} requests/s "
            f"within {RISE_S:.0f} s each morning, 1 to {MOST} replicas that start in 30 s, "
            "simulated: requests within their tier's promise in the rush of the morning, by "
            f"replicas.forecast; all figures are in docs/results/{STEM}.md"
        ),
        before="off alone",
        demanded=(
            "at a rate that does not change, even or noisy: at most one more change of the count "
            "than without a forecast, and 3 % more replica-hours"
        ),
        after="; ".join(
            f"{days.name(column)}: "
            + ", ".join(
                f"{name} {interval_text(days.mean(figure, column), '%')}"
                for name, figure in RUSH.items()
            )
            + f", {interval_text(days.mean(HOURS, column), HOURS.unit)}, "
            f"{days.mean(CHANGES, column).mean:.1f} changes"
            for column in range(len(RULES))
        ),
        interval=f"{days.seeds} seeds, 95 %; more than off: "
        + "; ".join(f"{days.name(column)} {_more(days, column)}" for column in days.rivals)
        + f"; at rest, the last day: {at_rest}",
        met=calm,
    )


def most_more_changes(found: Compared, column: int) -> float:
    """Return how many more changes a rule makes than none, in the worst seed."""
    ours, theirs = found.figures[CHANGES][0], found.figures[CHANGES][column]
    return max(more - fewer for more, fewer in zip(theirs, ours, strict=True))


def _more(days: Compared, column: int) -> str:
    figures = {**RUSH, "hours": HOURS}
    return ", ".join(
        f"{name} {difference_text(days.difference(figure, column), figure)}"
        for name, figure in figures.items()
    )


def _lines() -> list[str]:
    return [
        "Written by `python -m benchmarks.placement forecast`; do not edit. Costs are the "
        "simulator's defaults: a small model on two cores, replicas start in 30 s. Engine `fast`, "
        f"and the controller looks each {TICK_S:g} s.",
        "",
        f"- {DAYS} days of {DAY_S:.0f} s; figures are of the last one. From {NIGHT * PEAK:g} "
        f"requests/s at night the load rises to {PEAK:g} within {RISE_S:.0f} s from "
        f"{MORNING_S:.0f} s on, and falls again in the evening.",
        f"- A day's load differs by up to {HIGHER:.0%} from the usual, and its morning comes up to "
        f"{LATER_S:.0f} s earlier or later.",
        "- The rush: from the earliest beginning of a rise to "
        f"{RUSH_S[1] - LAST_S - MORNING_S - RISE_S:.0f} s after its usual end.",
        "- The tiers of the row `day`, with one tenant and one adapter each; prompts "
        f"are half as long, and answers three eighths. Nothing is placed. 1 to {MOST} "
        "replicas.",
    ]
