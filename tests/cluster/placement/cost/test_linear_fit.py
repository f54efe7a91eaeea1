"""The sums of a fit after years of half-lives."""

import math

import pytest

from cluster.placement.cost.linear_fit import LinearFit

PRIOR = (0.01, 1e-10)
HALF_LIVES = 10_000


def taught() -> LinearFit:
    fit = LinearFit(PRIOR, guess=True, prior_mass=10.0, least_mass=5.0)
    for number in range(20):
        fit.observe((1.0, 1e7 * number), 0.02 + 1e-3 * number, 1.0)
    return fit


def is_sound(fit: LinearFit) -> bool:
    values = (*fit.fitted, *fit.standard_errors(), fit.r2)
    return all(math.isfinite(value) and value >= 0.0 for value in values)


def test_what_was_not_observed_for_ages_is_known_as_before() -> None:
    fit = taught()
    usual, known = 9.5e7, fit.coefficients
    for _ in range(HALF_LIVES):
        fit.forget(0.5)
        assert is_sound(fit)
    latency, per_byte = fit.coefficients
    assert latency + per_byte * usual == pytest.approx(known[0] + known[1] * usual, rel=0.01)
    fit.observe((1.0, 0.0), 0.5, 1.0)
    assert fit.coefficients[0] > 10 * known[0], "one observation outweighs it"


def test_a_feature_that_was_not_seen_for_ages_counts_as_never_seen() -> None:
    fit = taught()
    for _ in range(HALF_LIVES):
        fit.forget(0.5)
        fit.observe((1.0, 0.0), 2 * PRIOR[0], 1.0)
        assert is_sound(fit)
    assert fit.coefficients == pytest.approx([2 * cost for cost in PRIOR])


def test_a_state_that_comes_after_ages_is_as_good_as_none() -> None:
    fit = LinearFit(PRIOR, guess=True, prior_mass=10.0, least_mass=5.0)
    for _ in range(1_000):
        fit.forget(0.5)
    for _ in range(90):
        late = LinearFit(PRIOR, guess=True, prior_mass=10.0, least_mass=5.0)
        assert late.restore(fit.to_state())
        assert late.restore(taught().to_state())
        assert is_sound(late)
        fit.forget(0.5)
