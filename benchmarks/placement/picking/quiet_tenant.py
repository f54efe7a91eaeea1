"""N13: a tenant with one adapter, next to a tenant that asks for 39 cold ones in turn.

Simulated: 3 replicas of 8 slots; the quiet tenant's arrivals are the same with and without the
other, and other rules of picking serve both. Live: `python -m benchmarks.adapters skew`, whose page
is read here, since it takes half an hour of its own.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import measure_columns
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.statistics import interval, quantile
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import ReplicaSpec, SimulationSpec

QUIET = "quiet-0"
TRACE = "adversary,duration=900,rate=0.2,pressure=4,cold=39"
"""Each request of the other tenant loads an adapter: they do not fit, and come in turn."""
REPLICAS, SLOTS = 3, 8
MOST = 1.2
SEEDS = 10
RIVALS = ("random", "least-loaded", "rendezvous")
SKEW = Path("docs/results/adapters-skew.json")
SKEW_VERDICT = "victim's median TTFT, of that alone"
BEFORE = "1.10 times alone"
"""The same trace with the picks and plans of before."""
BEFORE_LIVE = "1.18 times alone"


@dataclass(frozen=True, slots=True)
class QuietFigures:
    """The quiet tenant's figures in one run."""

    ttft: float  # median, seconds
    late: float  # TTFT p90, seconds
    found: float  # share of its requests that found their adapter on the device


def quiet_figures(result: SimulationResult) -> QuietFigures:
    """Read the figures of one run."""
    quiet = [served for served in result.requests if served.asked.tenant == QUIET]
    ttft = sorted(served.ttft for served in quiet if served.ttft is not None)
    return QuietFigures(
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
        statistics.fmean(served.tier_found == "device" for served in quiet),
    )


def both(spec: SimulationSpec) -> SimulationSpec:
    """Leave the trace as it is."""
    return spec


def alone(spec: SimulationSpec) -> SimulationSpec:
    """Leave the quiet tenant's requests alone in the trace."""
    return replace(spec, trace=[request for request in spec.trace if request.tenant == QUIET])


def rows(seeds: int = SEEDS, skew: Path = SKEW) -> list[ResultRow]:
    """Return the simulated row, and the live one where its page is there."""
    return [simulated_row(seeds), live_row(skew)]


def simulated_row(seeds: int) -> ResultRow:
    """Simulate both loads."""
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(REPLICAS),
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        replicas=REPLICAS,
    )
    columns = (alone, both, *(BASELINES[name].change for name in RIVALS))
    recipe = RunRecipe(base, NamedSource(TRACE))
    unhindered, ours, *others = measure_columns(recipe, columns, seeds, quiet_figures, "N13")
    ratios = [b.ttft / a.ttft for a, b in zip(unhindered, ours, strict=True)]
    ratio = interval(ratios)
    rivals = "; ".join(
        f"{name} {_words(unhindered, found)}" for name, found in zip(RIVALS, others, strict=True)
    )
    return ResultRow(
        name="N13",
        what=(
            "39 cold adapters of one tenant, 4 requests/s in turn, 1 of another, 3 replicas of 8 "
            "slots, simulated: the other's TTFT p50, of that alone; before: the earlier pick and "
            "plan on the same trace"
        ),
        before=BEFORE,
        demanded=f"placed; <= {MOST}",
        after=_words(unhindered, ours),
        interval=f"{seeds} seeds, 95 %: ± {ratio.half or 0.0:.2f}; in the same run {rivals}",
        met=ratio.mean <= MOST,
    )


def _words(unhindered: Sequence[QuietFigures], found: Sequence[QuietFigures]) -> str:
    ratio = statistics.fmean(b.ttft / a.ttft for a, b in zip(unhindered, found, strict=True))
    late = statistics.fmean(b.late / a.late for a, b in zip(unhindered, found, strict=True))
    share = 100 * statistics.fmean(figures.found for figures in found)
    return f"{ratio:.2f} times alone (p90 {late:.1f} times), its adapter there for {share:.0f} %"


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
