"""The row of the quiet tenant says what was measured, when, and whether its adapter was placed."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.placement.picking.quiet_tenant import (
    CODE,
    QUIET,
    SETTLED_S,
    TRACE,
    live_row,
    placed_share,
    quiet_figures,
)
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.result import PlacementSample, SimulationResult, TierCounts
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaSpec, SimulationSpec

QUIET_ADAPTER, OTHER = AdapterDigest("quiet"), AdapterDigest("other")
FOUND = Path("docs/results/adapters-skew.json")


def planned(*plans: tuple[float, str, AdapterDigest]) -> SimulationResult:
    samples = tuple(PlacementSample(at, ReplicaId(r), (digest,)) for at, r, digest in plans)
    return SimulationResult((), (), (), samples, TierCounts(), 0.0, SETTLED_S + 100.0)


def test_the_time_in_which_a_plan_has_the_adapter_is_told() -> None:
    assert placed_share(QUIET_ADAPTER, planned()) == 0.0
    assert placed_share(QUIET_ADAPTER, planned((5.0, "r0", QUIET_ADAPTER))) == 1.0
    moved = planned(
        (5.0, "r0", QUIET_ADAPTER),
        (SETTLED_S + 20.0, "r0", OTHER),
        (SETTLED_S + 30.0, "r1", QUIET_ADAPTER),
        (SETTLED_S + 40.0, "r2", QUIET_ADAPTER),
        (SETTLED_S + 50.0, "r1", OTHER),
    )
    assert placed_share(QUIET_ADAPTER, moved) == pytest.approx(0.9)


def test_nothing_is_placed_where_the_policy_places_nothing() -> None:
    policy = ClusterPolicy.fixed(3)
    off = policy.model_copy(
        update={"placement": policy.placement.model_copy(update={"mode": "off"})}
    )
    base = SimulationSpec(trace=(), policy=off, catalog=(), shape=ReplicaSpec(slots=8), replicas=3)
    spec = RunRecipe(base, NamedSource(TRACE.replace("900", "180")))(1)
    digest = next(info.digest for info in spec.catalog if info.owner == QUIET)
    assert quiet_figures(digest, simulate(spec)).placed == 0.0


def test_a_live_proof_that_has_not_run_has_no_figure(tmp_path: Path) -> None:
    row = live_row(tmp_path / "none.json")
    assert (row.after, row.met) == ("not run", None)


def times_alone() -> tuple[str, bool]:
    """Return what the proof's page says of the victim, and whether that is as demanded."""
    verdicts = json.loads(FOUND.read_text("utf-8"))["verdicts"]
    alone = next(one for one in verdicts if one["what"].endswith("of that alone"))
    return f"{alone['found']:.2f} times alone", alone["holds"]


def test_a_live_proof_is_cited_with_its_own_numbers(tmp_path: Path) -> None:
    shutil.copy(FOUND, tmp_path)
    row = live_row(tmp_path / FOUND.name)
    assert "2000 of rank 4" in row.what
    assert "beside 500 cold adapters" in row.what
    assert (row.after, row.met) == times_alone()
    assert row.interval.endswith("not committed yet")


def test_a_live_proof_of_earlier_code_meets_nothing(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *names, *words], check=True)

    git("init", "-q")
    code = tmp_path / CODE[0] / "picker.py"
    code.parent.mkdir(parents=True)
    results = tmp_path / "docs"
    results.mkdir()
    code.write_text("1")
    shutil.copy(FOUND, results)
    git("add", ".")
    git("commit", "-qm", "Measure")
    row = live_row(results / FOUND.name)
    assert (row.after, row.met) == times_alone()
    assert "commit " in row.interval
    code.write_text("2")
    git("commit", "-qam", "Change the pick")
    row = live_row(results / FOUND.name)
    assert (row.after, row.met) == (f"{times_alone()[0]}, measured before this work", None)
