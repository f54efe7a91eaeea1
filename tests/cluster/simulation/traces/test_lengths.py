"""Lengths have the medians and quantiles that are asked for."""

import math
import statistics
from random import Random

import pytest

from cluster.simulation.traces.lengths import FixedLength, LogNormalLength, QuantileLength

POINTS = ((0.0, 10), (0.5, 100), (0.9, 400), (1.0, 1000))


def test_a_fixed_length_is_itself() -> None:
    assert FixedLength(7).draw(Random(1)) == 7


def test_lognormal_lengths_have_median_and_mean() -> None:
    rng = Random(4)
    drawn = [LogNormalLength(200.0, 0.8).draw(rng) for _ in range(20_000)]
    assert statistics.median(drawn) == pytest.approx(200, rel=0.03)
    assert statistics.fmean(drawn) == pytest.approx(200 * math.exp(0.8**2 / 2), rel=0.04)


def test_lognormal_lengths_are_cut() -> None:
    rng = Random(4)
    drawn = {LogNormalLength(10.0, 3.0, 4, 20).draw(rng) for _ in range(500)}
    assert (min(drawn), max(drawn)) == (4, 20)


def test_given_quantiles_are_met() -> None:
    rng = Random(9)
    drawn = sorted(QuantileLength(POINTS).draw(rng) for _ in range(20_000))
    for share, tokens in POINTS[1:-1]:
        assert drawn[int(share * len(drawn))] == pytest.approx(tokens, rel=0.06)
    assert drawn[0] >= 10
    assert drawn[-1] <= 1000


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.0, 5),),
        ((0.1, 5), (1.0, 9)),
        ((0.0, 0), (1.0, 9)),
        ((0.0, 9), (1.0, 5)),
        ((0.0, 1), (0.5, 2), (0.5, 3), (1.0, 9)),
    ],
)
def test_points_that_are_no_quantiles_are_refused(points: tuple[tuple[float, int], ...]) -> None:
    with pytest.raises(ValueError, match="points: expected"):
        QuantileLength(points)
