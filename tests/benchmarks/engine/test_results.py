"""Figures from samples."""

import pytest

from benchmarks.engine.results import generation_row, rate, ratio_to, step_row
from benchmarks.engine.roofline import RooflineBound


def test_a_rate_has_its_median_and_its_ends() -> None:
    found = rate(10, [1.0, 2.0, 5.0])
    assert (found.median, found.low, found.high) == (5.0, 2.0, 10.0)


def test_a_ratio_compares_within_a_round() -> None:
    # A machine that turns ten times slower in the last two rounds: medians alone would mix rounds.
    assert ratio_to([1.0, 10.0, 10.0], [2.0, 20.0, 20.0]) == 0.5
    with pytest.raises(ValueError, match="shorter"):
        ratio_to([1.0, 1.0], [1.0])


def test_figures_of_steps() -> None:
    row = step_row(
        case="c",
        title="C",
        batch=4,
        tokens=1,
        context=64,
        rounds=[[0.01, 0.02, 0.9], [0.04, 0.04, 0.04], [0.03, 0.03, 0.03]],
        base_rounds=[[0.01], [0.02], [0.03]],
        bound=RooflineBound(nbytes=1, flops=1, bytes_s=0.006, flops_s=0.002),
    )
    assert row.step_ms == pytest.approx(30)
    assert row.rate.median == pytest.approx(4 / 0.03)
    assert (row.rate.low, row.rate.high) == (pytest.approx(100), pytest.approx(200))
    assert row.ratio_to_base == pytest.approx(0.5)
    assert row.best_ms == pytest.approx(10)
    assert row.best_ratio_to_base == pytest.approx(1.0)
    assert row.fraction_of_bound == pytest.approx(0.2)
    assert (row.bound_bytes_ms, row.bound_flops_ms) == (6, 2)


def test_figures_of_generations() -> None:
    row = generation_row(
        case="c",
        title="C",
        batch=2,
        output=50,
        seconds=[4.0, 5.0],
        steps=[0.07, None],
        base_seconds=[2.0, 4.0],
        bound_s=0.9,
        reference="PEFT",
        reference_seconds=[9.0, 9.0],
        reference_steps=[None, None],
    )
    assert row.rate.median == pytest.approx((25 + 20) / 2)
    assert row.ratio_to_base == pytest.approx((0.5 + 0.8) / 2)
    assert row.fraction_of_bound == pytest.approx(0.2)
    assert row.reference_rate is not None
    assert row.speedup == pytest.approx(22.5 / (100 / 9))
    assert row.step_ms == pytest.approx(70)
    assert row.reference_step_ms is None
