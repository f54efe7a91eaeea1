"""An hour of each published trace's shape: waits and replica-hours next to counts by requests.

Every column has Braid's picks and placement, the same bounds and the same costs; only the count
differs. The others' target is the most that decides how they do, so several are shown.
"""

from dataclasses import replace
from functools import partial

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulated import cell_of, run_columns, seconds
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.baselines.counts import PodAutoscalerCount, RayServeCount
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.table import Cell, Report
from cluster.simulation.report.trials import Column, policy_column
from cluster.simulation.spec import Delays, ReplicaSpec, SimulationSpec

SEEDS = 5
LEAST, MOST = 1, 12
SLOTS = 16
DELAYS = Delays(tick_s=5.0, exchange_s=2.5)
"""The controller looks each 5 s, for the sake of the run's length; the others look as often."""
POLICY = ClusterPolicy(replicas=ReplicasPolicy(min=LEAST, max=MOST))
TRACES = ("azure-hour", "burstgpt-hour", "mooncake-hour")
BEFORE = "a count by requests in flight, 8 a replica"


def rows(seeds: int = SEEDS, traces: tuple[str, ...] = TRACES) -> list[ResultRow]:
    """Return one row for each trace."""
    return [_row(trace, measure(trace, seeds), seeds) for trace in traces]


def measure(trace: str, seeds: int) -> Report:
    """Run one trace through all counts."""
    base = SimulationSpec(
        trace=(),
        policy=POLICY,
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        replicas=LEAST,
        delays=DELAYS,
    )
    columns = [
        policy_column("braid", POLICY),
        Column("Ray Serve, 2 a replica (its default)", "", partial(_ray_serve, target=2.0)),
        Column("Ray Serve, 8 a replica", "", partial(_ray_serve, target=8.0)),
        Column("Ray Serve, Braid's share of a batch", "", BASELINES["ray-serve-fitted"].change),
        Column("HPA, 8 a replica", "", partial(_pod_autoscaler, target=8.0)),
        Column("HPA, Braid's share of a batch", "", BASELINES["hpa"].change),
    ]
    return run_columns(RunRecipe(base, NamedSource(trace)), columns, seeds, POLICY, trace)


def _ray_serve(spec: SimulationSpec, target: float) -> SimulationSpec:
    return replace(spec, scaler=RayServeCount(target=target))


def _pod_autoscaler(spec: SimulationSpec, target: float) -> SimulationSpec:
    return replace(spec, scaler=PodAutoscalerCount(target=target))


def _row(trace: str, report: Report, seeds: int) -> ResultRow:
    others = range(1, len(report.columns))
    return ResultRow(
        name="traces",
        what=f"{trace}, {LEAST} to {MOST} replicas of {SLOTS} slots: TTFT p99 of those "
        "answered, and replica-hours",
        before=BEFORE,
        demanded="no count by requests is surely better in TTFT or hours and surely worse in none",
        after=_words(report, 0),
        interval=f"{seeds} seeds, 95 %; "
        + "; ".join(f"{report.columns[column][0]}: {_words(report, column)}" for column in others),
        met=not any(beats(report, column) for column in others),
    )


def _words(report: Report, column: int) -> str:
    wait, hours, failed = _cells(report, column)
    return (
        f"{seconds(wait.interval)}, {interval_text(hours.interval, 'h')}, "
        f"{interval_text(failed.interval, '%')} refused or failed"
    )


def _cells(report: Report, column: int) -> tuple[Cell, Cell, Cell]:
    return (
        cell_of(report, "all requests", "TTFT p99", column),
        cell_of(report, "replicas", "replica-hours", column),
        cell_of(report, "all requests", "refused or failed", column),
    )


def beats(report: Report, column: int) -> bool:
    """Report whether a column is surely better than the first in waits or hours, and surely worse
    in neither, nor in failures: who refuses more answers the rest sooner."""
    wait, hours, failed = (_sign(cell) for cell in _cells(report, column))
    return -1 in (wait, hours) and 1 not in (wait, hours, failed)


def _sign(cell: Cell) -> int:
    if cell.difference is None or not cell.differs:
        return 0
    return -1 if cell.difference.mean < 0 else 1
