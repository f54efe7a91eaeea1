"""Experiments run the real simulator on small traces."""

from pathlib import Path

import pytest

from cluster.placement.policy import ClusterPolicy
from cluster.simulation.baselines.baseline_names import BASELINES, fitted_target
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.recipe import ImportSource, NamedSource, RunRecipe
from cluster.simulation.report.trials import Column, Experiment, policy_column, run_experiment
from cluster.simulation.spec import SimulationSpec

POLICY = ClusterPolicy()
BASE = SimulationSpec(trace=(), policy=POLICY, catalog=())
REQUESTS = Figure("all requests", "requests", "", "neither")


@pytest.mark.slow
def test_every_baseline_serves_the_same_requests() -> None:
    columns = [policy_column("policy", POLICY)]
    columns += [Column(b.name, b.what, b.change) for b in BASELINES.values()]
    recipe = RunRecipe(BASE, NamedSource("constant,duration=15,rate=2,adapters=12"))
    shares: list[float] = []
    trials = run_experiment(Experiment(recipe, tuple(columns), (3,), POLICY), 1, shares.append)
    assert len(trials) == len(columns)
    assert len({trial.figures[REQUESTS] for trial in trials}) == 1
    assert all(trial.figures[REQUESTS] > 5 for trial in trials)
    assert all(trial.series is not None for trial in trials)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_rules_with_a_memory_are_made_anew_for_each_run() -> None:
    for baseline in BASELINES.values():
        first, second = baseline.change(BASE), baseline.change(BASE)
        assert first.scaler is None or first.scaler is not second.scaler


def test_a_fitted_target_is_the_policys_share_of_a_batch() -> None:
    batch = BASE.shape.engine.max_batch_size
    assert fitted_target(BASE) == pytest.approx(POLICY.replicas.target * batch)


def test_seeds_make_traces_that_differ_and_repeat() -> None:
    recipe = RunRecipe(BASE, NamedSource("constant,duration=30"))
    assert recipe(1).trace == recipe(1).trace
    assert recipe(1).trace != recipe(2).trace
    assert recipe(1).seed == 1


def test_a_published_trace_gets_adapters_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    rows = [f"2024-05-10 00:00:{second:02}.000000,64,8" for second in range(30)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    source = ImportSource("azure", path, most_tokens=128)
    first, again, other = (source.requests(seed) for seed in (1, 1, 2))
    assert first == again
    assert [request.at for request in first] == [request.at for request in other]
    assert [r.adapters for r in first] != [r.adapters for r in other]
    assert "Zipf" in source.words
