"""``braid eval``: what is asked of the evaluation, and what is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.evaluation import evaluation_run as run
from training.evaluation.evaluation_run import EvalReport, Scored
from training.evaluation.target import EvalConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[EvalConfig]:
    """The evaluations that were asked for; each has one right and one wrong answer."""
    configs: list[EvalConfig] = []

    def evaluate(config: EvalConfig, progress: Any) -> EvalReport:
        configs.append(config)
        progress("answered", 2, 2)
        perplexity = config.metric == "perplexity"
        return EvalReport(
            metric=config.metric,
            n=2,
            value=3.25 if perplexity else 0.5,
            interval=None if perplexity else (0.1, 0.9),
            target="sql",
            version="v",
            base_model="b",
            base_digest="d",
            mean_fan_out=1.0,
            seconds=1.0,
            scored=(
                Scored("good?", "yes", "yes", 1.0, (("sql", 1.0),)),
                Scored("bad?", "yes", "[no]", 0.0, ()),
            ),
        )

    monkeypatch.setattr(run, "evaluate", evaluate)
    return configs


def test_a_share_comes_with_its_interval_and_mistakes(
    braid: Callable[..., Any], asked: list[EvalConfig], tmp_path: Path
) -> None:
    result = braid("eval", tmp_path / "d.jsonl", "--mixture", "sql=0.5,cron=-1", "--limit", 7)
    assert result.exit_code == 0, result.stderr
    assert "50.0%" in result.stdout
    assert "10.0% to 90.0%" in result.stdout
    assert "bad?" in result.stdout
    assert "[no]" in result.stdout
    assert "good?" not in result.stdout
    (config,) = asked
    assert config.mixture == {"sql": 0.5, "cron": -1.0}
    assert config.limit == 7
    assert config.metric == "exact"


def test_json_for_programs_and_every_line_in_a_file(
    braid: Callable[..., Any], asked: list[EvalConfig], tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    result = braid(
        "eval", tmp_path / "d.jsonl", "--router", tmp_path, "--router-option", "top_p=0.3",
        "--router-option", "method=top_k", "--metric", "perplexity", "--json", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["value"] == 3.25
    assert [item["score"] for item in json.loads(out.read_text())["scored"]] == [1.0, 0.0]
    assert asked[0].router_options == {"top_p": 0.3, "method": "top_k"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mixture", "sql=x"), "--mixture: sql=x: not a number"),
        (("--router-option", "top_p"), "--router-option top_p: expected NAME=VALUE"),
    ],
)
def test_mistakes_are_named(
    braid: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = braid("eval", tmp_path / "d.jsonl", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
