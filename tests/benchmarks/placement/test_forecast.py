"""The days rise in the morning as their page says, and a restless forecast is not accepted."""

import pytest

from benchmarks.placement.simulation.compared import Compared
from benchmarks.placement.simulation.forecast import (
    CHANGES,
    HOURS,
    LAST_S,
    RUSH,
    RUSH_S,
    columns,
    recipe,
    row_of,
)
from benchmarks.placement.simulation.forecast_traces import (
    AT_REST,
    DAY_S,
    DAYS,
    EVENING_S,
    MORNING_S,
    NIGHT,
    PEAK,
    RISE_S,
    ForecastSource,
)


@pytest.fixture(scope="module")
def times() -> list[float]:
    return [request.at for request in ForecastSource().requests(1)]


def rate(times: list[float], begin: float, end: float) -> float:
    return sum(begin <= at < end for at in times) / (end - begin)


def test_each_day_has_a_night_and_a_steep_morning(times: list[float]) -> None:
    for day in range(DAYS):
        midnight = day * DAY_S
        night = rate(times, midnight, midnight + MORNING_S - 60.0)
        work = rate(times, midnight + MORNING_S + RISE_S + 60.0, midnight + EVENING_S)
        assert night == pytest.approx(NIGHT * PEAK, rel=0.15)
        assert work == pytest.approx(PEAK, rel=0.15)
    assert rate(times, *RUSH_S) < rate(times, RUSH_S[1], LAST_S + EVENING_S)


def test_days_differ(times: list[float]) -> None:
    work = [
        rate(times, day * DAY_S + MORNING_S + RISE_S + 60.0, day * DAY_S + EVENING_S)
        for day in range(DAYS)
    ]
    assert max(work) - min(work) > 0.02 * PEAK


def test_the_rate_at_rest_is_the_same_all_the_time() -> None:
    times = [request.at for request in ForecastSource(1.0).requests(1)]
    for day in range(DAYS):
        assert rate(times, day * DAY_S, (day + 1) * DAY_S) == pytest.approx(
            AT_REST * PEAK, rel=0.05
        )


def test_columns_differ_in_the_forecast_alone() -> None:
    base = recipe(1.0)(1)
    policies = [column.change(base).policy for column in columns()]
    assert [policy.replicas.forecast for policy in policies] == ["off", "trend", "daily"]
    plain = {"forecast": "off"}
    assert {policy.replicas.model_copy(update=plain) for policy in policies} == {
        base.policy.replicas
    }


@pytest.mark.parametrize(
    ("changes", "hours", "met"),
    [((4, 5), 1.02, True), ((4, 6), 1.0, False), ((4, 4), 1.04, False)],
)
def test_a_forecast_must_not_change_what_rests(changes, hours, met) -> None:
    names = tuple((column.name, column.what) for column in columns())
    few, many = (float(count) for count in changes)
    days = Compared(
        names,
        dict.fromkeys((*RUSH.values(), HOURS), ((0.5, 0.6),) * 3) | {CHANGES: ((1.0, 1.0),) * 3},
    )
    rest = Compared(
        names,
        {
            CHANGES: ((few, few), (few, few), (few, many)),
            HOURS: ((1.0, 1.0), (1.0, 1.0), (hours, hours)),
        },
    )
    assert row_of(days, {"constant": rest}).met is met
