"""`braid train`: options arrive, and faults are one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.local.quickstart import DEMO_ADAPTERS
from training import adapter, run
from training.config import (
    AdapterTrainingConfig,
    GateTrainingConfig,
    MiloraTrainingConfig,
)
from training.dlp import train_router as router
from training.dlp.router_config import RouterTrainingConfig
from training.flow import train_gate as gate
from training.milora import train_milora as milora

Braid = Callable[..., Any]


@pytest.mark.parametrize("kind", ["adapter", "router"])
def test_missing_data_is_named(braid: Braid, tmp_path: Path, kind: str) -> None:
    missing = tmp_path / "none.jsonl"
    result = braid("train", kind, "--data", missing, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert str(missing) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_line_is_named(braid: Braid, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    result = braid("train", "adapter", "--data", data, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{data}:2:completion: missing" in result.stderr


@pytest.mark.parametrize(
    ("kind", "option", "value", "field"),
    [
        ("adapter", "--lr", "0", "learning_rate"),
        ("adapter", "--target", "no_proj", "target_modules"),
        ("router", "--lr", "-1", "learning_rate"),
    ],
)
def test_wrong_values_are_named(
    braid: Braid, tmp_path: Path, kind: str, option: str, value: str, field: str
) -> None:
    result = braid("train", kind, "--data", "x", "--out", tmp_path, option, value)
    assert result.exit_code == 1
    assert field in result.stderr


def test_adapter_options_arrive(
    braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AdapterTrainingConfig] = []

    def train(config: AdapterTrainingConfig, progress: Any, **_: Any) -> run.TrainReport:
        seen.append(config)
        progress(run.TrainProgress(1, 2, 0.5, 0.25, 3.0))
        return run.TrainReport(config.out, 2, 1, 0.5, 0.25, 10, 2, 4.0, 2048)

    monkeypatch.setattr(adapter, "train_adapter", train)
    options = "--base m --description d --rank 4 --alpha 2 --target q_proj --steps 7 --lr 0.1"
    more = "--batch-size 3 --max-tokens 99 --dev-examples 5 --seed 6 --threads 1 --resume"
    out = tmp_path / "out"
    result = braid("train", "adapter", "--data", "x", "--out", out, *options.split(), *more.split())
    assert result.exit_code == 0, result.stderr
    assert seen == [
        AdapterTrainingConfig(
            data=Path("x"),
            out=out,
            base="m",
            cache_dir=tmp_path / "cache",
            description="d",
            rank=4,
            alpha=2,
            target_modules=("q_proj",),
            steps=7,
            learning_rate=0.1,
            batch_size=3,
            max_tokens=99,
            dev_examples=5,
            seed=6,
            threads=1,
            resume=True,
        )
    ]
    assert "2.0 KiB" in result.stdout
    assert "loss 0.5000, dev 0.2500" in result.stderr


def test_gate_options_arrive(braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[GateTrainingConfig] = []

    def train(config: GateTrainingConfig, progress: Any, **_: Any) -> run.TrainReport:
        seen.append(config)
        return run.TrainReport(config.out, 2, 1, 0.5, 0.25, 10, 2, 4.0, 2048)

    monkeypatch.setattr(gate, "train_gate", train)
    options = "--adapter a --adapter b --target a --base m --temperature 1.1 --epochs 2 --lr 0.1"
    more = "--batch-size 3 --max-tokens 99 --dev-examples 5 --seed 6 --threads 1 --overwrite"
    result = braid("train", "gate", "--data", "x", "--out", "o", *options.split(), *more.split())
    assert result.exit_code == 0, result.stderr
    assert seen == [
        GateTrainingConfig(
            data=Path("x"),
            out=Path("o"),
            adapters=(Path("a"), Path("b")),
            target="a",
            base="m",
            cache_dir=tmp_path / "cache",
            temperature=1.1,
            epochs=2,
            learning_rate=0.1,
            batch_size=3,
            max_tokens=99,
            dev_examples=5,
            seed=6,
            threads=1,
            overwrite=True,
        )
    ]


@pytest.mark.parametrize(
    ("second", "check"), [(DEMO_ADAPTERS / "sql", "name"), (Path("sql"), "digest")]
)
def test_the_demos_adapters_fit_every_copy_of_its_base(
    second: Path, check: str, braid: Braid, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[GateTrainingConfig] = []

    def train(config: GateTrainingConfig, progress: Any, **_: Any) -> run.TrainReport:
        seen.append(config)
        return run.TrainReport(config.out, 2, 1, 0.5, 0.25, 10, 2, 4.0, 2048)

    monkeypatch.setattr(gate, "train_gate", train)
    adapters = ["--adapter", str(DEMO_ADAPTERS / "cron"), "--adapter", str(second)]
    result = braid("train", "gate", "--data", "x", "--out", "o", *adapters)
    assert result.exit_code == 0, result.stderr
    assert [config.base_check for config in seen] == [check]


def test_one_adapter_makes_no_gate(braid: Braid) -> None:
    result = braid("train", "gate", "--data", "x", "--out", "o", "--adapter", "a")
    assert result.exit_code == 1
    assert "adapters" in result.stderr


def test_milora_options_arrive(
    braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[MiloraTrainingConfig] = []

    def train(config: MiloraTrainingConfig, progress: Any, **_: Any) -> run.TrainReport:
        seen.append(config)
        return run.TrainReport(config.out, 2, 1, 0.5, 0.25, 10, 2, 4.0, 2048)

    monkeypatch.setattr(milora, "train_milora", train)
    options = "--alias s --rank 4 --alpha 2 --top-k 1 --pooling max --weighting prob --steps 7"
    options += " --no-normalise"
    result = braid("train", "milora", "--data", "x", "--out", "o", *options.split())
    assert result.exit_code == 0, result.stderr
    assert seen == [
        MiloraTrainingConfig(
            data=Path("x"),
            out=Path("o"),
            cache_dir=tmp_path / "cache",
            alias="s",
            rank=4,
            alpha=2,
            top_k=1,
            pooling="max",
            weighting="prob",
            normalise=False,
            steps=7,
        )
    ]


def test_router_is_trained_from_a_file(braid: Braid, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    texts = [("select rows of a table", "sql"), ("tell me a story", "base")]
    data.write_text(
        "".join(
            json.dumps({"text": f"{text} {n}", "label": label}) + "\n"
            for n in range(30)
            for text, label in texts
        )
    )
    out = tmp_path / "router"
    options = ("--epochs", "1", "--threads", "1", "--held-out", data)
    result = braid("train", "router", "--data", data, "--out", out, *options)
    assert result.exit_code == 0, result.stderr
    assert (out / "router.json").exists()
    assert "held-out accuracy" in result.stdout
    again = braid("train", "router", "--data", data, "--out", out, *options)
    assert again.exit_code == 1
    assert str(out) in again.stderr


def test_defaults_of_the_router_stay_those_of_its_settings(
    braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RouterTrainingConfig] = []

    def train(config: RouterTrainingConfig, progress: Any) -> Any:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(router, "train_router", train)
    result = braid("train", "router", "--data", "x", "--out", tmp_path)
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert seen == [RouterTrainingConfig(data=Path("x"), out=tmp_path)]
