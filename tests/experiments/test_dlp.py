"""The DLP experiment's own logic: tasks, kept parts, the widened router, the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.generator.skills import SKILLS
from experiments.answers import KeptAnswers
from experiments.dlp.dlp_report import render, write_report
from experiments.dlp.dlp_tasks import load_tasks, write_router_data
from experiments.dlp.routing import load_any, measure_speed, widen
from experiments.intervals import mean_interval
from experiments.kept_results import kept_results, measure_once
from router_service.artifacts.router_artifact import RouterManifest, save_artifact
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import NetworkConfig, tensor_shapes
from router_service.routers.features import FeatureConfig
from training.evaluation.local_engine import Asked


@pytest.fixture
def router(tmp_path: Path) -> Path:
    tiny = DlpHyperparameters(
        features=FeatureConfig(buckets=64), network=NetworkConfig(width=4, hidden=(6, 5, 3))
    )
    candidates = ("", *sorted(SKILLS))
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(tiny.network, 64, len(candidates))
    manifest = RouterManifest(
        kind="dlp", candidates=candidates,
        hyperparameters=tiny.model_dump(mode="json"), data_digest="d",
    )  # fmt: skip
    save_artifact(tmp_path / "r", manifest, {n: rng.normal(size=s) for n, s in shapes.items()})
    return tmp_path / "r"


def _data(folder: Path, name: str, splits: dict[str, int]) -> None:
    (folder / name).mkdir(parents=True)
    for split, n in splits.items():
        lines = [{"prompt": f"{name} {split} {i}", "completion": "c"} for i in range(n)]
        path = folder / name / f"{split}.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))


def test_tasks_that_are_not_at_hand_are_named(tmp_path: Path) -> None:
    _data(tmp_path, "boolq", {"train": 30, "test": 20})
    _data(tmp_path, "piqa", {"train": 50})
    tasks, missing = load_tasks(tmp_path, n_train=12, n_heldout=6, seed=0)
    assert missing == ["gsm8k", "mawps", "science"]
    by_name = {task.name: task for task in tasks}
    assert set(by_name) == {*SKILLS, "general", "boolq", "piqa"}
    for task in tasks:
        train, heldout = ({r.prompt for r in s} for s in (task.train, task.heldout))
        assert len(train) == 12
        assert len(heldout) == 6
        assert not train & heldout
    assert all(r.prompt.startswith("boolq test") for r in by_name["boolq"].heldout)
    again, _ = load_tasks(tmp_path, n_train=12, n_heldout=6, seed=0)
    assert again == tasks
    assert load_tasks(None, n_train=5, n_heldout=5, seed=0)[1] == [
        "boolq", "gsm8k", "mawps", "piqa", "science",
    ]  # fmt: skip


def test_the_routers_files_have_one_line_per_prompt(tmp_path: Path) -> None:
    tasks, _ = load_tasks(None, n_train=5, n_heldout=3, seed=0)
    train, heldout = write_router_data(tasks, tmp_path)
    assert len((heldout / "sql.jsonl").read_text().splitlines()) == 3
    assert len((train / "sql.jsonl").read_text().splitlines()) == 5
    assert len((train / "general.jsonl").read_text().splitlines()) > 5


def test_a_result_is_measured_once_for_its_settings(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"value": len(calls)}

    assert measure_once(tmp_path, "p", {"a": 1}, measure)["value"] == 1
    assert measure_once(tmp_path, "p", {"a": 1}, measure)["value"] == 1
    assert measure_once(tmp_path, "p", {"a": 2}, measure)["value"] == 2
    assert {name: p["value"] for name, p in kept_results(tmp_path).items()} == {"p": 2}


def test_means_come_with_students_interval() -> None:
    assert mean_interval([0.5]) == (0.5, None)
    mean, half = mean_interval([0.9, 1.0, 0.95])
    assert mean == pytest.approx(0.95)
    assert half == pytest.approx(0.1242, abs=1e-4)


def test_a_widened_router_answers_as_before(router: Path, tmp_path: Path) -> None:
    narrow, wide = load_any(router), load_any(widen(router, tmp_path / "wide"))
    assert len(wide.candidates) == 100
    for text in ("one", "show all orders", ""):
        weights = narrow.route(text, frozenset(narrow.candidates)).weights
        assert wide.route(text, frozenset(wide.candidates)).weights == weights


def test_speed_is_measured_for_both_sizes(router: Path) -> None:
    rows = measure_speed(router, None, rounds=1)["candidates"]
    assert set(rows) == {"8", "100"}
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows.values())


def test_the_report_says_what_was_not_measured(tmp_path: Path) -> None:
    assert render({}).count("Not measured.") == 4
    routing = {
        "tasks": ["sql", "general"], "missing": ["piqa"], "n_train": 10, "n_heldout": 400,
        "by_task": {"sql": 1.0, "general": 0.98}, "mean_fan_out": 1.01, "parameters": 4_800_000,
        "cpu_s": 61.2,
    }  # fmt: skip
    counts = {"n": 50, "base": 0, "oracle": 49, "routed": 48, "top1": 47}
    parts = {
        "routing-0": routing | {"accuracy": 0.99},
        "routing-1": routing | {"accuracy": 0.98},
        "quality-0": {
            "by_task": {"sql": counts}, "total": counts, "routed_to_oracle": 48 / 49,
            "interval": {"routed": [0.86, 0.99]},
        },
        "decode-1": {
            "batch": 1,
            "cases": {
                "one adapter": {
                    "fan_out": 1, "cpu_ratio": 1.0, "wall_ratio": 1.0, "wall_s": 2.0, "cpu_s": 2.0,
                }
            },
        },
    }  # fmt: skip
    write_report(tmp_path, parts)
    page = (tmp_path / "dlp.md").read_text()
    assert "| **all** | **98.50 ± 6.35** |" in page
    assert "left out: piqa" in page
    assert "| sql | 50 | 0.0 | 98.0 | 96.0 (one seed) | 94.0 (one seed) |" in page
    assert "| 1 | one adapter | 1 | 1.00 | 1.00 | 2.00 |" in page
    assert page.count("Not measured.") == 1
    assert json.loads((tmp_path / "dlp.json").read_text()) == parts


def test_a_later_run_keeps_what_it_did_not_measure(tmp_path: Path) -> None:
    speed = {"candidates": {}, "load_average": 7.0}
    write_report(tmp_path, {"speed": speed, "other": {"n": 1}})
    write_report(tmp_path, {"speed": {**speed, "load_average": 0.25}})
    parts = json.loads((tmp_path / "dlp.json").read_text())
    assert parts["other"] == {"n": 1}
    assert parts["speed"]["load_average"] == 0.25
    assert "meanwhile: 0.2." in (tmp_path / "dlp.md").read_text()


def test_answers_are_decoded_once(tmp_path: Path) -> None:
    asked = [Asked(f"prompt {i % 20}") for i in range(40)]
    calls: list[int] = []

    def decode(chunk: Sequence[Asked], max_tokens: int) -> list[str]:
        calls.append(len(chunk))
        if sum(calls) > 16 and len(calls) == 2:
            raise KeyboardInterrupt
        return [f"{item.prompt}, {max_tokens}" for item in chunk]

    path = tmp_path / "kept" / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        KeptAnswers(path, "base", {}).fill(asked, 5, decode, print)
    again = KeptAnswers(path, "base", {})
    assert len(again.missing(asked, 5)) == 4
    again.fill(asked, 5, decode, print)
    assert calls == [16, 4, 4]
    assert again.get(asked[39], 5) == "prompt 19, 5"
    assert len(again.missing(asked, 6)) == 20
    assert len(KeptAnswers(path, "other", {}).missing(asked, 5)) == 20
