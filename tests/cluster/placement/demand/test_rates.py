"""Two clocks over what fronts report."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.clocks import FAST, SLOW, down_rate, hold_rate, up_rate
from cluster.placement.demand.demand import DemandKey, DemandTotals
from cluster.placement.demand.rates import DemandRates

KEY = DemandKey(TenantId("acme"), (AdapterDigest("a"),))


def totals(arrived: int, *, key: DemandKey = KEY, age_s: float = 0.0) -> DemandTotals:
    return DemandTotals(key, arrived, 10 * arrived, 5 * arrived, arrived, life=1, age_s=age_s)


def steady(rates: DemandRates, rate: int, seconds: int, front: str = "f", begin: int = 0) -> None:
    for second in range(1, seconds + 1):
        rates.observe(front, [totals(rate * second, age_s=second)], float(begin + second))


def restored(state: Mapping[str, Any], now: float) -> DemandRates:
    """Return the rates of a controller that begins with this state."""
    rates = DemandRates()
    rates.restore(state, now)
    return rates


def test_a_constant_rate_is_found_by_both_clocks() -> None:
    rates = DemandRates()
    steady(rates, 4, 3000)
    (only,) = rates.demand(3000.0).rates
    assert only.fast == pytest.approx(4.0, rel=0.01)
    assert only.slow == pytest.approx(4.0, rel=0.01)
    assert (only.prompt_tokens, only.generated_tokens) == (pytest.approx(10), pytest.approx(5))


def test_half_lives_are_15_and_240_seconds() -> None:
    rates = DemandRates()
    steady(rates, 4, 3000)
    (later,) = rates.demand(3015.0).rates
    assert later.fast == pytest.approx(2.0, rel=0.01)
    (latest,) = rates.demand(3240.0).rates
    assert latest.slow == pytest.approx(2.0, rel=0.01)


def test_the_three_readings_of_the_clocks() -> None:
    fast, slow = 3.0, 1.0
    events = fast / FAST
    assert up_rate(fast, slow) == pytest.approx(3.0 * (1 - 1 / math.sqrt(events)))
    assert up_rate(FAST, 0.0) == 0.0  # a single request is an accident
    assert up_rate(0.5, 1.0) == 1.0
    assert (down_rate(3.0, 1.0), down_rate(0.5, 1.0)) == (3.0, 1.0)
    assert hold_rate(0.0, 1.0) == pytest.approx(FAST)
    assert hold_rate(3.0, 1.0) == 1.0


@given(st.lists(st.integers(0, 30), min_size=2, max_size=30), st.integers(1, 29))
@settings(max_examples=60, deadline=None)
def test_a_lost_report_only_blurs_when_requests_came(arrivals, missing) -> None:
    """Whatever is lost, both clocks end within what spreading the same requests can change."""
    whole, holed = DemandRates(), DemandRates()
    total = 0
    for second, number in enumerate(arrivals, 1):
        total += number
        report = [totals(total, age_s=float(second))]
        whole.observe("f", report, float(second))
        if second % (missing + 1) or second == len(arrivals):
            holed.observe("f", report, float(second))
    end = float(len(arrivals))
    assert whole.demand(end).arrived == holed.demand(end).arrived == total
    for one, other in ((whole, holed), (holed, whole)):
        assert one.demand(end).slow <= other.demand(end).slow * math.exp(SLOW * 30) + 1e-9


def test_repeated_and_late_reports_change_nothing() -> None:
    rates, again = DemandRates(), DemandRates()
    reports = [[totals(3 * second, age_s=float(second))] for second in range(1, 20)]
    for second, report in enumerate(reports, 1):
        rates.observe("f", report, float(second))
        again.observe("f", report, float(second))
        again.observe("f", report, float(second))
        again.observe("f", reports[second // 2], float(second))
    assert again.demand(19.0) == rates.demand(19.0)


def test_a_restarted_front_counts_from_zero() -> None:
    rates = DemandRates()
    steady(rates, 4, 600)
    steady(rates, 4, 600, front="g", begin=600)
    assert rates.demand(1200.0).fast == pytest.approx(4.0, rel=0.02)
    assert rates.demand(1200.0).arrived == 4800


def test_a_controller_without_state_takes_old_totals_as_spread_over_their_age() -> None:
    rates = DemandRates()
    rates.observe("f", [totals(36_000, age_s=9000.0)], 50.0)
    demand = rates.demand(50.0)
    assert demand.fast == pytest.approx(4.0, rel=0.01)
    assert demand.slow == pytest.approx(4.0, rel=0.01)


def test_a_controller_with_state_counts_only_what_came_after_it() -> None:
    before = DemandRates()
    steady(before, 4, 3000)
    state = before.to_state(3000.0)
    after = restored(state, 7.0)
    assert after.demand(7.0).rates == before.demand(3000.0).rates
    after.observe("f", [totals(12_004, age_s=3001.0)], 8.0)
    assert after.demand(8.0).fast == pytest.approx(4.0, rel=0.01)


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    rates = DemandRates()
    rates.observe("f", [totals(1)], 0.0)
    assert len(rates.demand(60.0).rates) == 1
    assert rates.demand(7200.0).rates == ()
    assert len(rates) == 0


def test_memory_is_bounded_and_the_sum_is_kept() -> None:
    rates = DemandRates(most=100)
    for number in range(1000):
        key = DemandKey(TenantId(f"t{number % 4}"), (AdapterDigest(f"a{number}"),))
        rates.observe("f", [totals(1 + number // 100, key=key)], 1.0)
        assert len(rates) <= 104
    expected = sum(1 + number // 100 for number in range(1000)) * SLOW
    assert rates.demand(1.0).slow == pytest.approx(expected)


def test_time_that_steps_back_changes_nothing() -> None:
    rates = DemandRates()
    rates.observe("f", [totals(10)], 100.0)
    before = rates.demand(100.0)
    assert rates.demand(40.0) == before


def test_prompts_in_the_prefix_cache_are_no_work() -> None:
    rates = DemandRates()
    total = DemandTotals(KEY, 10, 1000, 50, 10, cached_tokens=900)
    rates.observe("f", [total], 1.0)
    assert rates.demand(1.0).rates[0].prompt_tokens == pytest.approx(10.0)


def test_what_a_front_counted_before_a_restart_has_not_arrived_again() -> None:
    rates = restored(DemandRates().to_state(0.0), 7.0)
    rates.observe("f", [totals(12_000, age_s=3001.0)], 8.0)
    assert rates.demand(8.0).arrived == 0
    rates.observe("f", [totals(12_001, age_s=3002.0)], 9.0)
    rates.observe("g", [totals(1, age_s=1.0)], 9.0)
    assert rates.demand(9.0).arrived == 2


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.integers(0, 20),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_when_an_earlier_life_is_restored(
    before: list[int], after: list[int], late: int, same_front: bool
) -> None:
    """A life that is restored before its first report, and one that is restored in the midst."""
    counted = 0
    first = DemandRates()
    for second, number in enumerate(before, 1):
        counted += number
        first.observe("f", [totals(counted, age_s=float(second))], float(second))
    at = float(len(before))
    state = first.to_state(at)
    prompt, tardy = restored(state, at), DemandRates()
    if not same_front:
        counted, age = 0, 0.0
    else:
        age = at
    for second, number in enumerate([0, *after]):
        if second == late:
            tardy.restore(state, at + second)
        counted += number
        for rates in (prompt, tardy):
            rates.observe("f" if same_front else "g", [totals(counted, age_s=age)], at + second)
        age += 1.0
    end = at + len(after)
    if late > len(after):
        tardy.restore(state, end)
    expected, found = prompt.demand(end), tardy.demand(end)
    assert found.fast == pytest.approx(expected.fast)
    assert found.slow == pytest.approx(expected.slow)


def test_a_state_that_cannot_be_read_changes_nothing() -> None:
    rates = DemandRates()
    steady(rates, 4, 60)
    before = rates.demand(60.0)
    whole = rates.to_state(60.0)["rates"]
    for broken in ({}, {"rates": None}, {"rates": [*whole, ["acme", [], 1.0]]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            rates.restore(broken, 60.0)
    assert rates.demand(60.0) == before
