"""N13: a tenant with one adapter, next to a tenant that asks for 39 cold ones in turn.

Simulated: 3 replicas of 8 slots; the quiet tenant's arrivals are the same with and without the
other, and other rules of picking serve both. Live: `python -m benchmarks.adapters skew`, whose page
is read here, since it takes half an hour of its own.
"""

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import measure_columns
from cluster.domain.ids import AdapterDigest, ReplicaId
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
SKEW_TABLE = "The victim"
CODE = ("cluster/placement", "cluster/adapters", "deployments/front/replicas")
"""Folders whose changes make an earlier live run one of other code."""
SETTLED_S = 120.0
PLACED = 0.95
"""Of the time after that, in which the quiet tenant's adapter must be in a plan."""
BEFORE = "1.10 times alone"
"""The same trace with the picks and plans of before."""
BEFORE_LIVE = "1.18 times alone"


@dataclass(frozen=True, slots=True)
class QuietFigures:
    """The quiet tenant's figures in one run."""

    ttft: float  # median, seconds
    late: float  # TTFT p90, seconds
    found: float  # share of its requests that found their adapter on the device
    placed: float  # share of the time after ``SETTLED_S`` in which a plan had its adapter


def quiet_figures(digest: AdapterDigest, result: SimulationResult) -> QuietFigures:
    """Read the figures of one run, in which the quiet tenant asks for this adapter."""
    quiet = [served for served in result.requests if served.asked.tenant == QUIET]
    ttft = sorted(served.ttft for served in quiet if served.ttft is not None)
    return QuietFigures(
        quantile(ttft, 0.5),
        quantile(ttft, 0.9),
        statistics.fmean(served.tier_found == "device" for served in quiet),
        placed_share(digest, result),
    )


def placed_share(digest: AdapterDigest, result: SimulationResult) -> float:
    """Return the share of the time after ``SETTLED_S`` in which a plan has an adapter."""
    having: set[ReplicaId] = set()
    since, placed = SETTLED_S, 0.0
    for plan in result.placements:
        at = max(SETTLED_S, plan.at)
        placed += (at - since) * bool(having)
        since = at
        (having.add if digest in plan.desired else having.discard)(plan.replica)
    placed += (result.duration_s - since) * bool(having)
    return placed / (result.duration_s - SETTLED_S)


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
    digest = next(info.digest for info in recipe(0).catalog if info.owner == QUIET)
    unhindered, ours, *others = measure_columns(
        recipe, columns, seeds, partial(quiet_figures, digest), "N13"
    )
    ratios = [b.ttft / a.ttft for a, b in zip(unhindered, ours, strict=True)]
    ratio, placed = interval(ratios), [figures.placed for figures in ours]
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
        demanded=(
            f"<= {MOST}; in a plan for >= {100 * PLACED:.0f} % of the time after "
            f"{SETTLED_S:.0f} s, with every seed"
        ),
        after=f"{_words(unhindered, ours)}, in a plan for {100 * min(placed):.0f} % at least",
        interval=f"{seeds} seeds, 95 %: ± {ratio.half or 0.0:.2f}; in the same run {rivals}",
        met=ratio.mean <= MOST and min(placed) >= PLACED,
    )


def _words(unhindered: Sequence[QuietFigures], found: Sequence[QuietFigures]) -> str:
    ratio = statistics.fmean(b.ttft / a.ttft for a, b in zip(unhindered, found, strict=True))
    late = statistics.fmean(b.late / a.late for a, b in zip(unhindered, found, strict=True))
    share = 100 * statistics.fmean(figures.found for figures in found)
    return f"{ratio:.2f} times alone (p90 {late:.1f} times), its adapter there for {share:.0f} %"


def live_row(path: Path) -> ResultRow:
    """Return the row of the live proof's page, without a figure if the proof has not run.

    A run of earlier code is cited, and meets nothing.
    """
    command = "`python -m benchmarks.adapters skew`"
    if not path.is_file():
        what = f"live ({command})"
        return ResultRow("N13 live", what, BEFORE_LIVE, f"<= {MOST}", "not run", "-", None)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    verdict = next(one for one in found["verdicts"] if one["what"] == SKEW_VERDICT)
    table = next(one for one in found["tables"] if one["title"] == SKEW_TABLE)
    setup, load = found["setup"], table["rows"][-1][0]
    commit, is_earlier = commit_of(path)
    return ResultRow(
        "N13 live",
        f"live, {setup['replicas']} replicas of {setup['slots per replica']} slots, "
        f"{setup['adapters']}; a tenant {load} of another one, TTFT p50 of that alone ({command})",
        BEFORE_LIVE,
        f"<= {MOST}",
        f"{verdict['found']:.2f} times alone"
        + (", measured before this work" if is_earlier else ""),
        f"one run, {table['rows'][-1][1]} requests, medians over rounds in turns; {commit}",
        None if is_earlier else verdict["holds"],
    )


def commit_of(path: Path) -> tuple[str, bool]:
    """Return a result's commit and day in words, and whether ``CODE`` has changed since then.

    A file that is not committed as it is counts as of now.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(path.parent.resolve()), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    top, name = git("rev-parse", "--show-toplevel"), path.name
    described = git("log", "-1", "--format=%h of %cs", "--", name)
    if not described or git("status", "--porcelain", "--", name):
        return "not committed yet", False
    commit = described.partition(" ")[0]
    since = git("log", "-1", "--format=%h", f"{commit}..HEAD", "--", *(f"{top}/{c}" for c in CODE))
    return f"commit {described}", bool(since)
