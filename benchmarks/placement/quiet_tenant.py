"""N13: a tenant with one adapter, next to a tenant that asks for 39 cold ones in turn.

Simulated: 3 replicas of 8 slots; the quiet tenant's arrivals are the same with and without the
other. Live: `python -m benchmarks.adapters skew`, whose page is read here, since it takes half an
hour of its own.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulated import cell_of, run_columns
from cluster.config import EngineConfig
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.experiment import Column
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.statistics import interval
from cluster.simulation.spec import ReplicaSpec, SimulationSpec

QUIET = "quiet-0"
TRACE = "adversary,duration=900,rate=0.2,pressure=2,cold=39"
REPLICAS, SLOTS = 3, 8
MOST = 1.2
SEEDS = 10
SKEW = Path("docs/results/adapters-skew.json")
SKEW_VERDICT = "victim's median TTFT, of that alone"
BEFORE = "1.00 times alone (79 ms)"
"""The same command with the picks and plans of before, 10 seeds."""
BEFORE_LIVE = "1.18 times alone"


def rows(seeds: int = SEEDS, skew: Path = SKEW) -> list[ResultRow]:
    """Return the simulated row, and the live one where its page is there."""
    return [simulated_row(seeds), live_row(skew)]


def simulated_row(seeds: int) -> ResultRow:
    """Simulate both loads."""
    policy = ClusterPolicy.fixed(REPLICAS)
    base = SimulationSpec(
        trace=(),
        policy=policy,
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS, engine=EngineConfig()),
        replicas=REPLICAS,
    )
    columns = [
        Column("beside", "both tenants", _both),
        Column("alone", "the quiet tenant alone", _alone),
    ]
    report = run_columns(RunRecipe(base, NamedSource(TRACE)), columns, seeds, policy, "N13")
    beside = cell_of(report, f"tenant {QUIET}", "TTFT p50").values
    alone = cell_of(report, "all requests", "TTFT p50", 1).values
    ratio = interval([beside[seed] / alone[seed] for seed in sorted(beside)])
    return ResultRow(
        name="N13",
        what=(
            "39 cold adapters of one tenant, 1 of another, 3 replicas of 8 slots, simulated: the "
            "other's TTFT p50, of that alone"
        ),
        before=BEFORE,
        demanded=f"<= {MOST}",
        after=f"{ratio.mean:.2f} times alone ({1e3 * statistics.fmean(beside.values()):.0f} ms)",
        interval=f"{seeds} seeds, ± {ratio.half or 0.0:.2f}",
        met=ratio.mean <= MOST,
    )


def _both(spec: SimulationSpec) -> SimulationSpec:
    return spec


def _alone(spec: SimulationSpec) -> SimulationSpec:
    return replace(spec, trace=[request for request in spec.trace if request.tenant == QUIET])


def live_row(path: Path) -> ResultRow:
    """Return the row of the live proof's page, without a figure if the proof has not run."""
    what = "live, 2 replicas, next to 500 cold adapters (`python -m benchmarks.adapters skew`)"
    if not path.is_file():
        return ResultRow("N13 live", what, BEFORE_LIVE, f"<= {MOST}", "not run", "-", None)
    found = next(
        verdict
        for verdict in json.loads(path.read_text())["verdicts"]
        if verdict["what"] == SKEW_VERDICT
    )
    return ResultRow(
        "N13 live",
        what,
        BEFORE_LIVE,
        f"<= {MOST}",
        f"{found['found']:.2f} times alone",
        "one run, medians over rounds in turns",
        found["holds"],
    )
