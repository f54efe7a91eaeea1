from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.base_model.source import ModelLocation
from cluster.errors import AdapterError, ConfigError
from demo.generator import evaluate as module
from demo.generator.evaluate import N_HELDOUT, evaluate_demo
from demo.generator.results import read_results
from demo.generator.skills import SKILLS
from training.evaluation.held_out import EvaluationReport, score_answers
from training.jsonl import Example


class FakeEvaluator:
    """The base model says "?"; every adapter knows all answers."""

    calls: list[str]

    def __init__(self, base: ModelLocation, *, threads: int) -> None:
        pass

    def evaluate(
        self, examples: Sequence[Example], *, adapter: Path | None, progress: Any
    ) -> EvaluationReport:
        self.calls.append(adapter.name if adapter else "base")
        progress(len(examples), len(examples))
        return score_answers(examples, [e.completion if adapter else "?" for e in examples])


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of an evaluation without a model."""
    for skill in SKILLS:
        (tmp_path / "adapters" / skill).mkdir(parents=True)
        (tmp_path / "adapters" / skill / "adapter_model.safetensors").write_text(skill)
    base = ModelLocation(path=tmp_path, model_id="owner/base", digest="d" * 64)
    monkeypatch.setattr(module, "resolve_model", lambda *_: base)
    monkeypatch.setattr(module, "Evaluator", FakeEvaluator)
    FakeEvaluator.calls = []
    return {
        "adapters_dir": tmp_path / "adapters",
        "cache_dir": tmp_path,
        "results_path": tmp_path / "docs" / "results" / "demo.json",
        "report_path": tmp_path / "docs" / "demo.md",
    }


def test_base_and_adapters_are_scored_and_reported(demo: dict[str, Any]) -> None:
    seen = []
    results = evaluate_demo(**demo, progress=lambda *p: seen.append(p))
    assert {(r.n, r.base, r.adapter, r.routed) for r in results.skills.values()} == {
        (N_HELDOUT, 0, N_HELDOUT, None)
    }
    assert ("sql", "adapter", N_HELDOUT, N_HELDOUT) in seen
    assert read_results(demo["results_path"]) == results
    report = demo["report_path"].read_text()
    for skill in SKILLS.values():
        row = f"| `{skill.name}` | {skill.description} | {N_HELDOUT} | 0% | 100% | not measured |"
        assert row in report


def test_only_what_changed_is_scored_again(demo: dict[str, Any]) -> None:
    evaluate_demo(**demo)
    assert len(FakeEvaluator.calls) == 2 * len(SKILLS)
    FakeEvaluator.calls.clear()
    (demo["adapters_dir"] / "sql" / "adapter_model.safetensors").write_text("new")
    evaluate_demo(**demo)
    assert FakeEvaluator.calls == ["base", "sql"]


def test_the_routed_column_is_filled_by_the_callable_and_kept(demo: dict[str, Any]) -> None:
    evaluate_demo(**demo)
    FakeEvaluator.calls.clear()
    results = evaluate_demo(
        **demo, answer=lambda p: "*/5 * * * *" if "5 min" in p else "", router="dlp", workers=3
    )
    assert FakeEvaluator.calls == []
    assert results.router == "dlp"
    assert (results.skills["cron"].routed or 0) > 0
    assert results.skills["sql"].routed == 0
    report = demo["report_path"].read_text()
    assert "Router: `dlp`" in report
    assert "not measured" not in report
    assert evaluate_demo(**demo) == results


def test_an_interrupted_evaluation_goes_on_where_it_was(demo: dict[str, Any]) -> None:
    last = list(SKILLS)[-1]
    weights = demo["adapters_dir"] / last / "adapter_model.safetensors"
    weights.unlink()
    with pytest.raises(AdapterError, match=last):
        evaluate_demo(**demo)
    assert not demo["report_path"].exists()
    FakeEvaluator.calls.clear()
    weights.write_text("back")
    evaluate_demo(**demo)
    assert FakeEvaluator.calls == ["base", last]


def test_a_foreign_results_file_is_refused(demo: dict[str, Any]) -> None:
    demo["results_path"].parent.mkdir(parents=True)
    demo["results_path"].write_text('{"skills": {}}')
    with pytest.raises(ConfigError, match=r"demo\.json: not a results file"):
        evaluate_demo(**demo)
