"""`python -m benchmarks.engine`: faults are one message, figures reach terminal and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.engine import run
from benchmarks.engine.__main__ import app
from benchmarks.engine.correctness import BenchmarkRefused
from benchmarks.engine.options import BenchOptions
from benchmarks.engine.results import EngineReport, MachineNote, RunNote, generation_row, step_row
from benchmarks.engine.roofline import RooflineBound
from benchmarks.shared import machine

Command = Callable[..., Any]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Command:
    """``bench(*arguments)``: run the command; the result has exit_code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that is never loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    return folder


def report() -> EngineReport:
    step = step_row(
        case="base",
        title="base",
        batch=16,
        tokens=1,
        context=64,
        rounds=[[0.02]],
        base_rounds=[[0.02]],
        bound=RooflineBound(nbytes=1, flops=1, bytes_s=0.01, flops_s=0.005),
    )
    generation = generation_row(
        case="base",
        title="base",
        batch=16,
        output=64,
        seconds=[4.0],
        steps=[0.02],
        base_seconds=[4.0],
        bound_s=2.0,
        reference="transformers",
        reference_seconds=[8.0],
        reference_steps=[0.1],
    )
    where = MachineNote(
        cpu="A CPU",
        isa=("avx2",),
        cores=2,
        threads=2,
        torch="2",
        python="3",
        load_before=0.0,
        load_after=2.0,
        gemm_gflops=132,
        linear_gflops=132,
        bandwidth_gbs=28,
        peak_samples=(),
    )
    note = RunNote(
        model="m",
        parameters=1,
        dtype="float32",
        quantize=None,
        rank=8,
        prompt_tokens=64,
        output_tokens=64,
        seed=0,
        seconds=1.0,
    )
    return EngineReport(
        machine=where,
        run=note,
        correctness=(),
        decode=(step,),
        prefill=(),
        generation=(generation,),
    )


def test_options_arrive_and_files_are_written(
    bench: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BenchOptions] = []

    def measure(options: BenchOptions, progress: run.Progress) -> EngineReport:
        seen.append(options)
        progress("single steps", "batch 1", 1, 2)
        return report()

    monkeypatch.setattr(run, "run_bench", measure)
    out = tmp_path / "results"
    words = "--quick --threads 1 --only adapters-16 --batch 16 --dtype bfloat16 --seed 5"
    result = bench("--model", model, "--out", out, *words.split())
    assert result.exit_code == 0, result.stderr
    (options,) = seen
    assert [case.name for case in options.cases] == ["base", "adapters-16"]
    assert (options.batches, options.threads) == ((16,), 1)
    assert (options.dtype, options.seed) == ("bfloat16", 5)
    assert "2.00x" in result.stdout
    assert "bytes 10.0, FLOPs 5.0" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        f"engine-bench-bfloat16.{ending}" for ending in ("json", "md", "png")
    ]
    page = (out / "engine-bench-bfloat16.md").read_text()
    assert f"`python -m benchmarks.engine --model {model} {words}`" in page


@pytest.mark.parametrize(("load", "noted"), [(0.2, False), (7.5, True)])
def test_a_busy_machine_is_noted(
    bench: Command, model: Path, monkeypatch: pytest.MonkeyPatch, load: float, noted: bool
) -> None:
    monkeypatch.setattr(machine, "load_average", lambda: load)
    monkeypatch.setattr(run, "run_bench", lambda *_: report())
    result = bench("--model", model)
    assert result.exit_code == 0
    assert ("the load average is 7.5" in result.stderr) is noted


def test_a_failed_check_shows_no_figure_and_fails(
    bench: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> EngineReport:
        raise BenchmarkRefused("the engine disagrees with PEFT:\n  one adapter: by 0.3")

    monkeypatch.setattr(run, "run_bench", refuse)
    out = tmp_path / "results"
    result = bench("--model", model, "--out", out)
    assert result.exit_code == 1
    assert "one adapter: by 0.3" in result.stderr
    assert "tokens/s" not in result.stdout
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "adapters-3"], "no case is called 'adapters-3'; there are base, idle-16"),
        (["--threads", "0"], "--threads: expected 1 to"),
        (["--batch", "0"], "--batch: expected 1 to 256"),
    ],
)
def test_mistakes_are_named(bench: Command, model: Path, words: list[str], message: str) -> None:
    result = bench("--model", model, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_model_is_named(bench: Command, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    result = bench("--model", missing)
    assert result.exit_code == 1
    assert str(missing) in result.stderr


def test_a_model_of_another_kind_is_named(bench: Command, model: Path) -> None:
    result = bench("--model", model, "--quick")
    assert result.exit_code == 1
    assert "config.json has no 'num_hidden_layers'" in result.stderr
