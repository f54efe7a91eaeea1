"""An hour of each published trace's shape: waits and replica-hours next to counts by requests.

Every column has Braid's picks and placement, the same bounds, costs and delays; only the count
differs. Braid's has its default policy. The others' target is the most that decides how they do, so
each has two that were chosen with hindsight on another hour of the same shape: the one with the
fewest replica-hours that is as quick as Braid there, and the quickest one that has no more hours.
All rows take some 20 minutes on two cores.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import cell_of, run_columns, seconds
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.simulation.baselines.counts import PodAutoscalerCount, RayServeCount
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.table import Cell, Report
from cluster.simulation.report.trials import Column, SpecChange, policy_column
from cluster.simulation.spec import ReplicaSpec, SimulationSpec

SEEDS = 5
OTHER_HOUR = 1000
"""Seed of the hour on which the others' targets are chosen."""
TARGETS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Requests of a replica."""
LEAST, MOST = 1, 12
SLOTS = 16
BARELY = 0.05
"""Of Braid's figure: being worse by less does not excuse what is better by more."""
POLICY = ClusterPolicy(replicas=ReplicasPolicy(min=LEAST, max=MOST))
UNPROMISED = ClusterPolicy(replicas=ReplicasPolicy(min=LEAST, max=MOST, cold_share=1.0))
"""Adds no replica for the sake of adapters, as counts by requests do not."""
TRACES = ("azure-hour", "burstgpt-hour", "mooncake-hour")
BEFORE = "a count by requests in flight, 8 a replica"


@dataclass(frozen=True, slots=True)
class Hour:
    """Figures of one column on the other hour."""

    wait: float  # TTFT p99, seconds
    hours: float
    failed: float  # share refused or failed


def _ray_serve(spec: SimulationSpec, target: float) -> SimulationSpec:
    return replace(spec, scaler=RayServeCount(target=target))


def _pod_autoscaler(spec: SimulationSpec, target: float) -> SimulationSpec:
    return replace(spec, scaler=PodAutoscalerCount(target=target))


RIVALS: Mapping[str, SpecChange] = {
    f"{name}, {target:g} a replica": partial(change, target=target)
    for name, change in (("Ray Serve", _ray_serve), ("HPA", _pod_autoscaler))
    for target in TARGETS
}


def rows(seeds: int = SEEDS, traces: tuple[str, ...] = TRACES) -> list[ResultRow]:
    """Return one row for each trace."""
    return [_row(trace, measure(trace, seeds), seeds) for trace in traces]


def measure(trace: str, seeds: int) -> Report:
    """Run one trace through Braid's count and the others with their best targets."""
    base = SimulationSpec(
        trace=(),
        policy=POLICY,
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        replicas=LEAST,
    )
    recipe = RunRecipe(base, NamedSource(trace))
    ours = policy_column("braid", POLICY)
    columns = [ours, *(Column(name, "", change) for name, change in RIVALS.items())]
    report = run_columns(recipe, columns, 1, POLICY, f"{trace}, targets", first_seed=OTHER_HOUR)
    found = {name: _hour(report, number) for number, (name, _) in enumerate(report.columns)}
    chosen = chosen_rivals(found.pop("braid"), found)
    columns = [
        ours,
        *(Column(f"{name} ({why})", "", RIVALS[name]) for name, why in chosen.items()),
        policy_column("Braid without a promise of cold requests", UNPROMISED),
    ]
    return run_columns(recipe, columns, seeds, POLICY, trace)


def _hour(report: Report, column: int) -> Hour:
    wait, hours, failed = _cells(report, column)
    return Hour(wait.interval.mean, hours.interval.mean, failed.interval.mean)


def chosen_rivals(ours: Hour, others: Mapping[str, Hour]) -> dict[str, str]:
    """Return the columns that could beat ours by what another hour says, and why each was chosen.

    Of each kind, which is the name before its comma: the one with the fewest hours of those that
    are as quick as ours, and the quickest of those that have no more hours. If there is none,
    the quickest of all and the one with the fewest hours. None fails more requests than ours, if
    one of its kind does not.
    """
    chosen: dict[str, list[str]] = {}
    for kind in dict.fromkeys(name.partition(",")[0] for name in others):
        found = {name: hour for name, hour in others.items() if name.partition(",")[0] == kind}
        least = max(ours.failed, min(hour.failed for hour in found.values()))
        fit = {name: hour for name, hour in found.items() if hour.failed <= least}
        for why, name in _best_two(ours, fit):
            chosen.setdefault(name, []).append(why)
    return {name: ", ".join(whys) for name, whys in chosen.items()}


def _best_two(ours: Hour, others: Mapping[str, Hour]) -> Iterator[tuple[str, str]]:
    def quickest(name: str) -> tuple[float, float]:
        return others[name].wait, others[name].hours

    def cheapest(name: str) -> tuple[float, float]:
        return others[name].hours, others[name].wait

    quick = [name for name, hour in others.items() if hour.wait <= ours.wait]
    cheap = [name for name, hour in others.items() if hour.hours <= ours.hours]
    yield "as quick", min(quick, key=cheapest) if quick else min(others, key=quickest)
    yield "as cheap", min(cheap, key=quickest) if cheap else min(others, key=cheapest)


def _row(trace: str, report: Report, seeds: int) -> ResultRow:
    others = range(1, len(report.columns))
    rivals = range(1, len(report.columns) - 1)
    return ResultRow(
        name="traces",
        what=f"{trace}, {LEAST} to {MOST} replicas of {SLOTS} slots, default policy: TTFT p99 of "
        "those answered, and replica-hours; the others' targets are the best of "
        f"{', '.join(f'{target:g}' for target in TARGETS)} on another hour: the fewest hours as "
        "quick as Braid, and the quickest as cheap",
        before=BEFORE,
        demanded="no count by requests is surely better in TTFT or hours and surely worse in none, "
        f"nor better in one by more than {BARELY:.0%} and worse in the other by less",
        after=_words(report, 0),
        interval=f"{seeds} seeds, 95 %; "
        + "; ".join(
            f"{report.columns[column][0]}: {_words(report, column)} ({_compared(report, column)})"
            for column in others
        ),
        met=not any(beats(report, column) for column in rivals),
    )


def _words(report: Report, column: int) -> str:
    wait, hours, failed = _cells(report, column)
    whole = cell_of(report, "adapters", "found whole on the device", column)
    return (
        f"{seconds(wait.interval)}, {interval_text(hours.interval, 'h')}, "
        f"{interval_text(failed.interval, '%')} refused or failed, "
        f"{100 * whole.interval.mean:.0f} % found whole"
    )


def _cells(report: Report, column: int) -> tuple[Cell, Cell, Cell]:
    return (
        cell_of(report, "all requests", "TTFT p99", column),
        cell_of(report, "replicas", "replica-hours", column),
        cell_of(report, "all requests", "refused or failed", column),
    )


def beats(report: Report, column: int) -> bool:
    """Report whether a column is surely better than the first in waits or hours, and surely worse
    in neither, or by less than ``BARELY`` where it is better by more.

    It may not fail more: who refuses more answers the rest sooner.
    """
    ours, cells = _cells(report, 0), _cells(report, column)
    changes = [_change(cell, own) for cell, own in zip(cells, ours, strict=True)]
    (wait, hours), failed = changes[:2], changes[2]
    best, worst = min(wait, hours), max(wait, hours)
    if failed > 0 or best >= 0:
        return False
    return worst <= 0 or (worst <= BARELY and best < -BARELY)


def _change(cell: Cell, ours: Cell) -> float:
    """Return a figure's sure change, as a share of the first column's; 0: none is sure."""
    if cell.difference is None or not cell.differs:
        return 0.0
    change = cell.difference.mean
    return change / ours.interval.mean if ours.interval.mean else math.copysign(math.inf, change)


def _compared(report: Report, column: int) -> str:
    """Say by how much a column's waits and hours surely differ from the first one's."""
    changes = [
        _change(cell, own)
        for cell, own in zip(_cells(report, column), _cells(report, 0), strict=True)
    ]
    words = [
        f"{name} {change:+.0%}" if change else f"{name} not surely different"
        for name, change in zip(("TTFT", "hours"), changes[:2], strict=True)
    ]
    verdict = "beats Braid" if beats(report, column) else "does not beat Braid"
    return f"{', '.join(words)}: {verdict}"
