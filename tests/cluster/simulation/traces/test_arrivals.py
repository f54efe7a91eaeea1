"""Arrivals follow their formulas: rates and coefficients of variation."""

import bisect
import itertools
import math
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.traces.arrivals import (
    ArrivalRate,
    ConstantRate,
    Diurnal,
    FlashCrowd,
    MarkovRate,
    SquareWave,
    arrival_times,
)

SIGMAS = 4.0
"""Of a sum's deviation that a seed may have: one test of 16,000 would fail by accident."""


def drawn(rate: ArrivalRate, duration_s: float, cv: float = 1.0, seed: int = 7) -> list[float]:
    return list(arrival_times(rate, Random(seed), duration_s, cv))


def between(times: list[float], begin: float, end: float) -> int:
    return bisect.bisect_left(times, end) - bisect.bisect_left(times, begin)


def assert_poisson(found: int, expected: float, cv: float = 1.0) -> None:
    assert abs(found - expected) <= SIGMAS * max(cv, 0.1) * math.sqrt(expected) + 1


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_gamma_gaps_have_the_mean_and_the_cv_that_are_asked_for(cv: float) -> None:
    rate, duration_s = 5.0, 40_000.0
    times = drawn(ConstantRate(rate), duration_s, cv)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert_poisson(len(times), rate * duration_s, cv)
    found = statistics.pstdev(gaps) / statistics.fmean(gaps)
    assert found == pytest.approx(cv, rel=0.05, abs=1e-6)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    times = drawn(ConstantRate(3.0), 20_000.0)
    counts = [between(times, 10.0 * n, 10.0 * (n + 1)) for n in range(400)]
    assert statistics.variance(counts) / statistics.fmean(counts) == pytest.approx(1, abs=0.3)


def test_a_square_wave_has_two_rates_in_turn() -> None:
    times = drawn(SquareWave(1.0, 6.0, 1000.0), 10_000.0)
    low = sum(between(times, n * 1000, n * 1000 + 500) for n in range(10))
    assert_poisson(low, 5000)
    assert_poisson(len(times) - low, 30_000)


def test_a_diurnal_rate_follows_the_cosine() -> None:
    rate = Diurnal(mean=2.0, depth=0.8, period_s=2400.0)
    times = drawn(rate, 24_000.0)
    assert_poisson(len(times), 48_000)
    night = sum(between(times, n * 2400, n * 2400 + 300) for n in range(10))
    # The integral of mean * (1 - depth cos) over the first eighth of a period.
    expected = 10 * 2.0 * (300 - 0.8 * 2400 / (2 * math.pi) * math.sin(2 * math.pi / 8))
    assert_poisson(night, expected)


def test_a_flash_crowd_jumps_and_decays() -> None:
    times = drawn(FlashCrowd(base=5.0, peak=10.0, at_s=1000.0, decay_s=200.0), 3000.0)
    assert_poisson(between(times, 0, 1000), 5000)
    expected = 5 * (200 + 9 * 200 * (1 - math.exp(-1)))
    assert_poisson(between(times, 1000, 1200), expected)
    assert_poisson(between(times, 2600, 3000), 5 * 400, cv=1.1)


def test_a_crowd_after_the_end_is_not_there() -> None:
    times = drawn(FlashCrowd(base=5.0, peak=100.0, at_s=1000.0, decay_s=200.0), 500.0)
    assert_poisson(len(times), 2500)


def test_a_markov_rate_spends_its_time_as_its_stays_say() -> None:
    rate = MarkovRate((1.0, 9.0), (80.0, 20.0))
    pieces = list(itertools.takewhile(lambda p: p[0] < 2e6, rate.pieces(Random(3), 2e6)))
    ends = [0.0, *(end for end, _ in pieces)]
    high = sum(
        after - before
        for (before, after), (_, level) in zip(itertools.pairwise(ends), pieces, strict=True)
        if level == 9.0
    )
    assert high / ends[-1] == pytest.approx(0.2, abs=0.01)


def test_an_mmpp_is_burstier_than_poisson() -> None:
    times = drawn(MarkovRate((1.0, 20.0), (80.0, 20.0)), 50_000.0)
    counts = [between(times, 100.0 * n, 100.0 * (n + 1)) for n in range(100)]
    assert statistics.variance(counts) > 10 * statistics.fmean(counts)


@given(
    st.sampled_from(
        [
            ConstantRate(2.0),
            SquareWave(0.0, 5.0, 7.0),
            Diurnal(2.0, 1.0, 50.0),
            FlashCrowd(1.0, 9.0, 20.0, 5.0),
            MarkovRate((0.0, 4.0), (3.0, 3.0)),
            MarkovRate((2.0,), (5.0,)),
        ]
    ),
    st.floats(0, 5),
    st.floats(0.1, 100),
    st.integers(0, 1000),
)
def test_times_rise_and_stay_within_the_duration(
    rate: ArrivalRate, cv: float, duration_s: float, seed: int
) -> None:
    times = drawn(rate, duration_s, cv, seed)
    assert all(0 <= at <= duration_s for at in times)
    assert times == sorted(times)
    assert times == drawn(rate, duration_s, cv, seed)


def test_no_request_comes_while_the_rate_is_0() -> None:
    times = drawn(SquareWave(0.0, 50.0, 10.0), 100.0)
    assert times
    assert not [at for at in times if at % 10 < 5]


@pytest.mark.parametrize("cv", [-1.0, 21.0, math.nan, math.inf])
def test_a_cv_out_of_range_is_refused(cv: float) -> None:
    with pytest.raises(ValueError, match="cv: expected 0 to 20"):
        drawn(ConstantRate(1.0), 10, cv)
