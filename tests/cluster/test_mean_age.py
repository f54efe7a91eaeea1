"""Checks the moving average of ages."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.mean_age import MeanAge


def test_it_is_0_before_the_first_age_and_then_that_one():
    ages = MeanAge()
    assert ages.seconds == 0
    ages.observe(30)
    assert ages.seconds == 30


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_it_stays_within_what_was_observed(found):
    ages = MeanAge()
    for age in found:
        ages.observe(age)
    least, most = max(min(found), 0), max(*found, 0)
    assert least - 1e-6 * most <= ages.seconds <= most * (1 + 1e-9)


def test_it_follows_a_change():
    ages = MeanAge()
    for _ in range(100):
        ages.observe(10)
    for _ in range(100):
        ages.observe(100)
    assert ages.seconds > 95
