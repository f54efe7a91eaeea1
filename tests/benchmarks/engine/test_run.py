"""A whole run on a tiny model, its files, and what it refuses."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.engine import run as run_module
from benchmarks.engine.bank_loading import AdapterShelf
from benchmarks.engine.correctness import BenchmarkRefused
from benchmarks.engine.options import BenchOptions, make_options
from benchmarks.engine.results import EngineReport, rate
from benchmarks.engine.run import run_bench
from benchmarks.engine.writing import write_report
from cluster.errors import ConfigError


def silent(phase: str, words: str, done: int, total: int | None) -> None:
    assert total is None or done <= total


def test_a_run_writes_figures_that_follow_from_its_samples(
    tiny_options: BenchOptions, tmp_path: Path
) -> None:
    report = run_bench(tiny_options, silent)
    paths = write_report(
        report, tmp_path / "results", "engine-bench", "python -m benchmarks.engine"
    )
    assert [path.name for path in paths] == [
        "engine-bench.json",
        "engine-bench.md",
        "engine-bench.png",
    ]
    assert EngineReport.model_validate_json(paths[0].read_text()) == report
    assert json.loads(paths[0].read_text())["schema_name"] == "braid-bench-engine/1"
    assert paths[2].read_bytes().startswith(b"\x89PNG")

    assert {(row.case, row.batch) for row in report.decode} == {
        *((case, 4) for case in ("base", "idle-16", "adapters-16", "mixture-4")),
        *((case, 1) for case in ("base", "idle-16", "mixture-4")),
    }
    for row in report.decode:
        assert [len(steps) for steps in row.ms] == [4, 4]
        bound = max(row.bound_bytes_ms, row.bound_flops_ms)
        assert row.fraction_of_bound == pytest.approx(bound / row.step_ms, rel=1e-3)
        assert row.rate.low <= row.rate.median <= row.rate.high
    assert all(row.ratio_to_base == 1.0 for row in report.decode if row.case == "base")
    assert {row.batch for row in report.prefill} == {1, 4}
    for row in report.prefill:
        assert row.tokens == 8
        assert [len(steps) for steps in row.ms] == [1, 1]
    generations = {row.case: row for row in report.generation}
    assert generations["base"].reference == "transformers"
    assert generations["adapters-16"].reference == "PEFT"
    assert generations["mixture-4"].reference is None
    for generation in report.generation:
        assert generation.rate == rate(4 * 5, generation.seconds)
    assert [bool(check.sensitivity) for check in report.correctness] == [False, False, *[True] * 4]

    page = paths[1].read_text()
    assert "Written by `python -m benchmarks.engine`" in page
    for row in report.decode:
        assert f"| {row.batch} | {row.title} | {row.step_ms:.1f} | {row.best_ms:.1f} |" in page


def test_a_failed_check_leaves_no_figures(
    tiny_options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt_shelf(*arguments: object) -> AdapterShelf:
        shelf = real(*arguments)  # type: ignore[arg-type]
        read = shelf.read

        def read_wrongly(*arguments: object) -> None:
            read(*arguments)  # type: ignore[arg-type]
            wrong = {path: t._replace(A=-t.A) for path, t in shelf.tensors[3].items()}
            shelf.tensors = (*shelf.tensors[:3], wrong, *shelf.tensors[4:])

        shelf.read = read_wrongly  # type: ignore[method-assign,assignment]
        return shelf

    def never(*_: object) -> None:
        raise AssertionError("measured in spite of a failed check")

    real = AdapterShelf
    monkeypatch.setattr(run_module, "AdapterShelf", spoilt_shelf)
    monkeypatch.setattr(run_module, "StepView", never)
    monkeypatch.setattr(run_module.Bench, "_generate", never)
    with pytest.raises(BenchmarkRefused, match="one adapter: log-probabilities differ"):
        run_bench(tiny_options, silent)


def test_a_spent_budget_ends_after_the_round_under_way(tiny_options: BenchOptions) -> None:
    few = replace(tiny_options, budget_s=0.0, rounds=50, generation_rounds=50)
    report = run_bench(few, silent)
    assert all(len(row.ms) == 1 for row in report.decode)
    assert all(len(row.seconds) == 1 for row in report.generation)


@pytest.mark.parametrize("threads", [0, -1, 4096])
def test_threads_that_are_not_there_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=rf"--threads: expected 1 to \d+.*{threads}"):
        make_options(Path("x"), "x", quick=True, threads=threads)


def test_an_unknown_case_or_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="'adapters-3'"):
        make_options(Path("x"), "x", quick=True, only=["adapters-3"])
    with pytest.raises(ConfigError, match="--batch"):
        make_options(Path("x"), "x", quick=True, batches=[0])


def test_a_prefill_step_has_no_more_prompts_than_the_scheduler_gives_it(
    tiny_options: BenchOptions,
) -> None:
    few = replace(tiny_options, batches=(1, 4, 12), prompt_tokens=100, rounds=1, generations=())
    report = run_bench(few, silent)
    assert {row.batch for row in report.decode} == {1, 4, 12}
    assert {row.batch for row in report.prefill} == {1, 4, 5}  # of 512 tokens
    assert report.generation == ()


def test_dtype_and_quantisation_reach_the_engine() -> None:
    options = make_options(Path("x"), "x", quick=True, dtype="bfloat16", quantize="int8")
    config = options.engine_config()
    assert (config.dtype, config.quantize) == ("bfloat16", "int8")


def test_the_full_run_has_every_case_and_batch() -> None:
    options = make_options(Path("x"), "x", quick=False)
    assert {case.terms for case in options.cases} == {0, 1, 2, 4, 8}
    assert {case.loaded for case in options.cases} == {0, 1, 4, 16, 64}
    assert options.batches == (1, 4, 8, 16, 32)
    assert options.adapters == 64
    assert options.threads == len(os.sched_getaffinity(0))
    config = options.engine_config()
    assert config.max_batch_size == 32
    assert config.kv_blocks * config.block_size >= 32 * 128
    assert not config.prefix_cache
