"""A comparison of two checkouts can say yes, no, and that it cannot tell."""

import json
from pathlib import Path

import pytest

from benchmarks.placement.page import read_rows
from benchmarks.unchanged import (
    PairedFigure,
    Reading,
    commit_of,
    engine_figures,
    measure,
    paired,
    relay_figures,
    write,
)

RESULTS = Path("docs/results")


def figure(before: tuple[float, ...], after: tuple[float, ...], more: bool = False) -> PairedFigure:
    return PairedFigure("step", "decode step", "ms", more, before, after)


@pytest.mark.parametrize(
    ("after", "unchanged"),
    [
        ((10.1, 9.9, 10.0, 10.1), True),
        ((9.0, 9.1, 9.0, 8.9), True),
        ((10.3, 10.4, 10.3, 10.4), False),
        ((14.0, 7.0, 13.0, 8.0), None),
    ],
)
def test_a_figure_is_unchanged_slower_or_not_told(after, unchanged) -> None:
    assert figure((10.0, 10.0, 10.0, 10.0), after).unchanged is unchanged


def test_one_round_tells_nothing() -> None:
    assert figure((10.0,), (20.0,)).unchanged is None


def test_rounds_are_compared_each_with_its_own() -> None:
    drifting = figure((10.0, 20.0, 40.0, 80.0), (10.1, 19.9, 40.2, 79.9))
    assert drifting.unchanged is True


def test_fewer_tokens_a_second_are_slower() -> None:
    rates = figure((100.0, 101.0, 99.0), (90.0, 91.0, 89.0), more=True)
    assert rates.slower.mean == pytest.approx(11.1, abs=0.1)
    assert rates.unchanged is False


def test_figures_are_read_from_both_benchmarks() -> None:
    engine = engine_figures(json.loads((RESULTS / "engine-bench.json").read_text()))
    assert list(engine) == ["decode", "prefill", "generation"]
    assert engine["decode"].what == "decode step, 16 requests with 16 adapters"
    relay = relay_figures(json.loads((RESULTS / "relay.json").read_text()))
    assert {"chat 16", "chat 64", "log-probabilities 64"} <= set(relay)
    assert all(reading.value > 0 for reading in (engine | relay).values())


def test_rows_and_the_file_hold_the_same_rounds(tmp_path: Path) -> None:
    rounds = [{"step": Reading("decode step", "ms", False, value)} for value in (10.0, 11.0)]
    write(tmp_path, paired(rounds, rounds[::-1]), "abc", commit_of(Path(__file__).parent))
    found = json.loads((tmp_path / "engine-unchanged.json").read_text())
    assert found["figures"][0]["before"] == [10.0, 11.0]
    assert found["figures"][0]["after"] == [11.0, 10.0]
    (row,) = read_rows(tmp_path / "placement.json")
    assert row.row.before == "10.5 ms (10.0 to 11.0)"
    assert row.command == "python -m benchmarks.unchanged --before DIR --rounds 2"


def test_a_benchmark_that_fails_ends_the_comparison_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "engine.py").write_text("raise SystemExit('no model here')")
    with pytest.raises(RuntimeError, match=r"(?s)benchmarks\.engine failed.*no model here"):
        measure(tmp_path)
