"""The trend and the days: their loads, and what they leave to a later life."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cluster.placement.demand.clocks import FAST
from cluster.placement.demand.forecast import GAP_S, Expected, Forecast
from cluster.placement.demand.season import DAY, DayLength
from cluster.placement.demand.trend import BIN_S, WARM_BINS, DampedTrend

AHEAD_S = 30.0
WORK = 0.5  # seconds of a request
SHORT_DAY_S = 7200.0
SHORT_DAY = DayLength(SHORT_DAY_S)


@dataclass
class Watch:
    """Shows a forecast the fast clock of a rate, look by look."""

    forecast: Forecast = field(default_factory=Forecast)
    now: float = 0.0
    skew: float = 0.0
    fast: float = 0.0
    look_s: float = 10.0

    def show(self, rate: float) -> None:
        kept = math.exp(-FAST * self.look_s)
        self.fast = self.fast * kept + rate * (1.0 - kept)
        self.now += self.look_s
        wall = self.now + self.skew
        self.forecast.observe(self.fast, WORK * self.fast, self.now, wall, AHEAD_S)

    def run(self, seconds: float, rate: Callable[[float], float]) -> None:
        end = self.now + seconds
        while self.now < end:
            self.show(rate(self.now))

    def expect(self, rule: str = "trend") -> Expected:
        found = self.forecast.expect(rule, AHEAD_S)
        assert found is not None
        return found


def working_day(now: float) -> float:
    """Return a rate with a steep morning each day."""
    hour = now % SHORT_DAY_S / SHORT_DAY_S * 24
    return 1.0 + 9.0 * min(max(hour - 7.0, 0.0), 1.0) * min(max(20.0 - hour, 0.0), 1.0)


def test_a_constant_load_is_expected_to_stay() -> None:
    watch = Watch(fast=4.0)
    watch.run(1000.0, lambda _: 4.0)
    assert watch.expect().load == pytest.approx(4.0 * WORK)
    assert watch.expect() == Expected("trend", AHEAD_S, watch.expect().load)


def test_nothing_is_expected_before_enough_was_seen() -> None:
    watch = Watch(fast=4.0)
    watch.show(4.0)  # begins the first bin
    for _ in range(WARM_BINS - 1):
        watch.show(4.0)
    assert watch.forecast.expect("trend", AHEAD_S) is None
    watch.show(4.0)
    assert watch.expect().load == pytest.approx(2.0)


def test_a_ramp_is_extrapolated_and_damped() -> None:
    trend = DampedTrend()
    for number in range(200):
        trend.observe(1.0 + 0.1 * number)
    last = 1.0 + 0.1 * 199
    near, far = trend.ahead(30.0), trend.ahead(3600.0)
    assert last < near < last + 0.35
    assert near < far < last + 0.1 * 10, "a slope that lasts adds nine bins of it at most"


def test_a_rise_is_seen_before_the_fast_clock_sees_it() -> None:
    watch = Watch(fast=2.0)
    watch.run(600.0, lambda _: 2.0)
    watch.run(120.0, lambda now: 2.0 + (now - 600.0) * 0.05)
    assert watch.expect().load > WORK * watch.fast


def test_accidents_are_not_expected() -> None:
    rng, watch, most = random.Random(1), Watch(fast=4.0), 0.0
    for _ in range(3000):
        came = sum(rng.random() < 0.01 for _ in range(4000)) / BIN_S
        watch.show(came)
        found = watch.forecast.expect("trend", AHEAD_S)
        most = max(most, found.load if found else 0.0)
    assert most < 1.1 * 4.0 * WORK


def test_an_accident_is_as_large_as_said() -> None:
    """The deviation of what is expected is that of the same sums over noise."""
    rng, trend, found = random.Random(2), DampedTrend(), []
    for number in range(20_000):
        trend.observe(rng.gauss(100.0, 10.0))
        if number > 1000:
            found.append(trend.ahead(AHEAD_S))
    mean = sum(found) / len(found)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in found) / len(found))
    assert trend.accident(AHEAD_S) == pytest.approx(deviation, rel=0.25)


def test_the_days_are_used_once_they_were_nearer_for_a_day() -> None:
    watch = Watch(Forecast(SHORT_DAY), fast=1.0)
    watch.run(1.6 * SHORT_DAY_S, working_day)
    assert watch.expect("daily").rule == "trend", "the second day is to compare"
    morning = 2 * SHORT_DAY_S + 7 / 24 * SHORT_DAY_S
    watch.run(morning - watch.now, working_day)
    assert watch.forecast.daily_is_nearer
    found = watch.expect("daily")
    assert found.rule == "daily"
    assert found.load > 1.2 * WORK * watch.fast, "before a request more has come"


def test_days_that_say_nothing_of_this_one_are_not_used() -> None:
    rng, watch = random.Random(3), Watch(Forecast(SHORT_DAY), fast=1.0)
    shifts = [rng.uniform(0, SHORT_DAY_S) for _ in range(4)]
    watch.run(4 * SHORT_DAY_S, lambda now: working_day(now + shifts[int(now // SHORT_DAY_S)]))
    assert not watch.forecast.daily_is_nearer
    assert watch.expect("daily").rule == "trend"


def test_a_day_is_as_much_higher_as_its_last_hour() -> None:
    watch = Watch(Forecast(SHORT_DAY), fast=1.0)
    watch.run(2.0 * SHORT_DAY_S, working_day)
    watch.run(12 / 24 * SHORT_DAY_S, lambda now: 1.5 * working_day(now))
    assert watch.expect("daily").load == pytest.approx(1.5 * 10.0 * WORK, rel=0.05)


def test_a_clock_that_steps_adds_nothing_at_once() -> None:
    watch = Watch(Forecast(SHORT_DAY), fast=1.0)
    watch.run(2.2 * SHORT_DAY_S, working_day)  # at night
    assert watch.expect("daily").rule == "daily"
    before = watch.expect("daily").load
    for step in (0.1, 0.5, -0.6, 0.08):
        watch.skew += step * SHORT_DAY_S
        watch.show(1.0)
        assert watch.expect("daily") == watch.expect("trend")
        assert watch.expect("daily").load < 1.1 * before + 0.01
    watch.run(SHORT_DAY_S / 24 + 100.0, lambda _: 1.0)
    assert watch.expect("daily").rule == "daily", "an hour was seen by the new time"


@pytest.mark.parametrize("hours", [20.0, 55.0, 63.5])
def test_a_later_life_expects_the_same(hours: float) -> None:
    watch, kept = Watch(Forecast(SHORT_DAY), fast=1.0), {}
    end = hours / 24 * SHORT_DAY_S
    while watch.now < end:
        watch.run(60.0, working_day)
        changes = watch.forecast.changes()
        kept |= {name: json.loads(json.dumps(part)) for name, part in changes.items()}
        watch.forecast.written(changes)
        assert len(changes) < 12, "differences only"
    later = Forecast(SHORT_DAY)
    later.restore(kept, watch.now)
    for rule in ("trend", "daily"):
        assert later.expect(rule, AHEAD_S) == watch.expect(rule)
    assert later.describe(AHEAD_S) == watch.forecast.describe(AHEAD_S)


def test_a_life_that_begins_much_later_has_the_days_alone() -> None:
    watch = Watch(Forecast(SHORT_DAY), fast=1.0)
    watch.run(2.2 * SHORT_DAY_S, working_day)
    later = Forecast(SHORT_DAY)
    later.restore(watch.forecast.changes(), watch.now + GAP_S + 1.0)
    assert later.expect("daily", AHEAD_S) is None
    assert later.daily_is_nearer


def test_a_time_without_looks_is_forgotten() -> None:
    watch = Watch(fast=4.0)
    watch.run(1000.0, lambda _: 4.0)
    watch.now += GAP_S
    watch.show(4.0)
    assert watch.forecast.expect("trend", AHEAD_S) is None


def test_what_was_not_kept_is_written_again_and_the_rest_in_turn() -> None:
    forecast = Forecast(SHORT_DAY)
    watch = Watch(forecast, fast=1.0)
    watch.run(1.1 * SHORT_DAY_S, working_day)
    first = forecast.changes()
    assert len(first) > DAY.bins
    assert forecast.changes().keys() == first.keys()
    forecast.written(first)
    again = set()
    for _ in range(DAY.bins):
        changes = forecast.changes()
        assert len(changes) <= 2
        again |= changes.keys()
    assert again == first.keys()


@pytest.mark.parametrize("kept", [{"3": [[1.0]]}, {"x": [[1.0], []]}, {"now": {}}, {"3": 1}])
def test_what_is_not_a_forecast_is_refused(kept: dict[str, object]) -> None:
    watch = Watch(fast=4.0)
    watch.run(400.0, lambda _: 4.0)
    before = watch.expect()
    with pytest.raises((KeyError, TypeError, ValueError)):
        watch.forecast.restore(kept, watch.now)
    assert watch.expect() == before


def test_a_forecast_is_described_for_people() -> None:
    watch = Watch(fast=4.0)
    assert watch.forecast.describe(AHEAD_S)["trend"] == {"work": None, "error": None}
    watch.run(400.0, lambda _: 4.0)
    said = watch.forecast.describe(AHEAD_S)
    assert said["nearer"] == "trend"
    assert said["trend"]["work"] == pytest.approx(2.0)
    assert json.loads(json.dumps(said)) == said


def test_a_day_has_bins_of_five_minutes() -> None:
    assert (DAY.seconds, DAY.bin_s) == (86_400.0, 300.0)
