"""The load that is expected when a replica that is asked for now could serve it.

Two rules: the trend of the last minutes, and the same time of the last days, as much higher or
lower as the last hour was. The second is used once it was nearer than the first over a whole day.

Monotonic time says how long things took. The wall clock only says which bin of the day it is: where
it steps, the days are not used before an hour was seen by the new time.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.placement.demand.clocks import FAST
from cluster.placement.demand.season import DAY, HOUR_BINS, DailySeason, DayLength
from cluster.placement.demand.trend import BIN_S, DampedTrend

ForecastRule = Literal["trend", "daily"]
ACCIDENT = 3.0
"""Standard deviations of what is expected that are put down to accident, as of a rise."""
STEP_S = 10.0
"""A wall clock that gains or loses more from one look to the next has been set."""
GAP_S = 300.0
"""After a longer time without looks, those before it say nothing of the present."""
_NOW = "now"


@dataclass(frozen=True, slots=True)
class Expected:
    """The load that is expected, in the unit of the loads."""

    rule: ForecastRule
    in_s: float  # from now
    load: float  # less what may be accident


@dataclass(slots=True)
class _OpenBin:
    """The bin of the day that is not over: sums over ``seconds``, errors over ``judged``."""

    number: int
    load: float = 0.0
    seconds: float = 0.0
    trend: float = 0.0
    season: float = 0.0
    judged: int = 0


class Forecast:
    """One owner, shown the load at every look. ``now`` is monotonic, ``wall`` since the epoch."""

    def __init__(self, day: DayLength = DAY) -> None:
        """Expect what comes again to do so after a ``day``."""
        self._trend = DampedTrend()
        self._day = day
        self._season = DailySeason(day)
        self._hour: deque[tuple[float, float]] = deque(maxlen=HOUR_BINS)  # load, mean of the days
        self._open: _OpenBin | None = None
        self._said: deque[tuple[float, float, float]] = deque()  # for when, by trend and season
        self._wall = 0.0  # of the last look
        self._last: tuple[float, float, float] | None = None  # of the last bin: now, wall, rate

    # Looks

    def observe(self, rate: float, load: float, now: float, wall: float, ahead_s: float) -> None:
        """Take in the present load.

        Args:
            rate: requests per second on the fast clock.
            load: theirs, which each of them adds to.
            now: monotonic.
            wall: since the epoch.
            ahead_s: time that a replica takes to start.
        """
        self._wall = wall
        if self._last is not None and now - self._last[0] > GAP_S:
            self._trend, self._last = DampedTrend(), None
            self._forget_hour()
        if self._last is None:
            self._last = (now, wall, rate)
            return
        began, began_wall, before = self._last
        elapsed = now - began
        if abs(wall - began_wall - elapsed) > STEP_S:
            self._forget_hour()
            self._last = (began, wall - elapsed, before)
        if elapsed < BIN_S:
            return
        self._last = (now, wall, rate)
        # What came within the bin is what the clock has gained, and what it has forgotten.
        kept = math.exp(-FAST * elapsed)
        came = max(0.0, (rate - before * kept) / (1.0 - kept))
        seen = came * load / rate if rate > 0.0 else 0.0
        for _ in range(round(elapsed / BIN_S)):
            self._trend.observe(seen)
        self._note(seen, elapsed, now)
        season = self._daily(ahead_s)
        if self._trend.warm and season is not None:
            self._said.append((now + ahead_s, self._trend.ahead(ahead_s), season))

    def expect(self, rule: ForecastRule, ahead_s: float) -> Expected | None:
        """Return what a rule expects, or ``trend`` where the days were not nearer; None: nothing.

        It is less than expected by as much as may be accident.
        """
        if not self._trend.warm:
            return None
        daily = self._daily(ahead_s) if rule == "daily" and self.daily_is_nearer else None
        if daily is None:
            load, doubt = self._trend.ahead(ahead_s), self._trend.accident(ahead_s)
            return Expected("trend", ahead_s, max(0.0, load - ACCIDENT * doubt))
        days, hour = self._season.days(self._wall + ahead_s), HOUR_BINS
        bins = BIN_S / self._season.bin_s * (1.0 / max(1, days) + 1.0 / hour)
        doubt = self._trend.spread * math.sqrt(bins)
        return Expected("daily", ahead_s, max(0.0, daily - ACCIDENT * doubt))

    @property
    def daily_is_nearer(self) -> bool:
        """Return whether the same time of the last days was nearer than the trend for a day."""
        errors = self._season.errors
        return errors is not None and errors[1] < errors[0]

    def describe(self, ahead_s: float) -> dict[str, Any]:
        """Return what both rules expect, and their mean errors over the last day, for people."""
        errors = self._season.errors or (None, None)
        trend = self._trend.ahead(ahead_s) if self._trend.warm else None
        return {
            "in_s": ahead_s,
            "nearer": "daily" if self.daily_is_nearer else "trend",
            "trend": {"work": trend, "error": errors[0]},
            "daily": {"work": self._daily(ahead_s), "error": errors[1]},
        }

    def _forget_hour(self) -> None:
        self._hour.clear()
        self._said.clear()
        self._open = None

    def _daily(self, ahead_s: float) -> float | None:
        """Return the mean of the days then, as much higher or lower as the last hour was."""
        mean = self._season.at(self._wall + ahead_s)
        usual = sum(of_days for _, of_days in self._hour)
        if mean is None or len(self._hour) < HOUR_BINS or usual <= 0.0:
            return None
        return mean * sum(load for load, _ in self._hour) / usual

    def _note(self, seen: float, elapsed: float, now: float) -> None:
        """Add a load to its bin of the day, and judge what was said for it."""
        number = self._season.bin_of(self._wall - elapsed / 2)
        if self._open is None or self._open.number != number:
            self._close()
            self._open = _OpenBin(number)
        self._open.load += seen * elapsed
        self._open.seconds += elapsed
        while self._said and self._said[0][0] <= now:
            due, trend, season = self._said.popleft()
            if now - due < BIN_S:
                self._open.trend += abs(trend - seen)
                self._open.season += abs(season - seen)
                self._open.judged += 1

    def _close(self) -> None:
        """Put the open bin to the days, where the half of it was seen."""
        part, self._open = self._open, None
        if part is None or part.seconds < 0.5 * self._season.bin_s:
            return
        load, mean = part.load / part.seconds, self._season.mean(part.number)
        if mean is not None:
            self._hour.append((load, mean))
        errors = (part.trend / part.judged, part.season / part.judged) if part.judged else None
        self._season.close(part.number, load, errors)

    # What outlives it

    def changes(self) -> dict[str, Any]:
        """Return what is to be kept of it, JSON-able: only what has changed since ``written``."""
        part = self._open
        return {
            **self._season.changes(),
            _NOW: {
                "wall": self._wall,
                "trend": self._trend.figures(),
                "hour": [list(both) for both in self._hour],
                "open": [] if part is None else [
                    part.number, part.load, part.seconds, part.trend, part.season, part.judged
                ],
            },
        }  # fmt: skip

    def written(self, changes: Mapping[str, Any]) -> None:
        """Take in that these changes are kept."""
        self._season.written(changes)

    def restore(self, kept: Mapping[str, Any], wall: float) -> None:
        """Take in what all ``changes`` of an earlier life together said.

        Of what was seen within the last hour nothing is taken over where the wall clocks of the
        two lives are further apart than ``GAP_S``.

        Raises:
            KeyError, TypeError, ValueError: it was not ``changes`` that said it; nothing has
                changed then.
        """
        bins, newest = {k: v for k, v in kept.items() if k != _NOW}, kept.get(_NOW)
        season = DailySeason(self._day)
        season.restore(bins)
        if newest is not None and abs(wall - float(newest["wall"])) <= GAP_S:
            trend = DampedTrend([float(figure) for figure in newest["trend"]])
            hour = [(float(load), float(mean)) for load, mean in newest["hour"]]
            part = _OpenBin(*newest["open"]) if newest["open"] else None
            self._trend, self._open = trend, part
            self._hour = deque(hour, maxlen=HOUR_BINS)
        self._season, self._wall = season, wall
