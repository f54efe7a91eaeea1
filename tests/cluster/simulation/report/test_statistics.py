"""Intervals, quantiles and Jain's index against values known from tables and definitions."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.report.statistics import interval, jain_index, quantile

NUMBERS = st.floats(-1e6, 1e6)


def test_five_values_have_students_interval() -> None:
    """t is 2.776 with 4 degrees of freedom; the deviation of 1..5 is sqrt(2.5)."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)


def test_one_seed_has_no_interval() -> None:
    found = interval([2.0])
    assert (found.mean, found.half, found.low, found.high) == (2.0, None, None, None)
    assert not found.excludes_zero


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        interval([])


@pytest.mark.parametrize(
    ("sure", "seeds", "t"),
    [(0.95, 2, 12.706), (0.95, 31, 2.042), (0.99, 4, 5.841), (0.99, 11, 3.169), (0.8, 3, 1.886)],
)
def test_t_is_as_in_tables(sure: float, seeds: int, t: float) -> None:
    values = [float(value) for value in range(seeds)]
    found = interval(values, sure)
    deviation = math.sqrt(seeds * (seeds + 1) / 12)  # of 0, 1, ... seeds - 1
    assert found.half == pytest.approx(t * deviation / math.sqrt(seeds), rel=5e-4)


@pytest.mark.parametrize("seeds", [2, 5, 40])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    rng = random.Random(seeds)
    held = 0
    for _ in range(2000):
        found = interval([rng.gauss(1.0, 3.0) for _ in range(seeds)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


@given(st.lists(NUMBERS, min_size=1), st.floats(0, 1))
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    below = [value for value in ordered if value < found]
    assert not below or len(below) < share * len(ordered)


@given(st.lists(st.floats(0.01, 1e6), min_size=1), st.floats(0.01, 100))
def test_jains_index_is_between_one_nth_and_one_whatever_the_unit(
    values: list[float], unit: float
) -> None:
    found = jain_index(values)
    assert 1 / len(values) - 1e-9 <= found <= 1 + 1e-9
    assert jain_index([value * unit for value in values]) == pytest.approx(found)


def test_jains_index_of_extremes() -> None:
    assert jain_index([3, 3, 3, 3]) == 1
    assert jain_index([5, 0, 0, 0]) == 0.25
    assert jain_index([]) == jain_index([0, 0]) == 1
