"""Days with steep mornings, and the same tenants at a rate that does not change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from benchmarks.placement.simulation.day_trace import SPREAD, DayTier
from benchmarks.placement.simulation.day_trace import TIERS as LONG_TIERS
from cluster.placement.demand.season import DayLength
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import ArrivalRate, ConstantRate, Piece
from cluster.simulation.traces.asking import AdapterNames, OneByPopularity
from cluster.simulation.traces.lengths import LogNormalLength
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.stream import TraceStream, generate

DAY = DayLength(3600.0, 72)
"""A short day has fewer bins, so that each has enough requests to learn from."""
DAY_S = DAY.seconds
DAYS = 4
"""The first to learn from, two to compare on, and one to measure."""
PEAK = 12.0
"""Requests per second of all tiers by day."""
NIGHT = 0.07
"""Of the peak."""
AT_REST = 0.2
"""Of the peak, where the rate does not change."""
MORNING_S, EVENING_S = 1200.0, 2100.0
RISE_S, FALL_S = 120.0, 600.0
HIGHER, LATER_S = 0.1, 30.0
"""By so much, at most, a day's load and its morning differ from the usual."""
TIERS = tuple(
    replace(tier, tenants=1, prompt=tier.prompt // 2, answer=3 * tier.answer // 8)
    for tier in LONG_TIERS
)
"""Requests are shorter, and more of them come, than in the day: so less is accident. There are as
few tenants and adapters as there can be: only the count matters."""
_STEPS = 24


@dataclass(frozen=True)
class WorkingDays:
    """Nights, steep mornings, days at the peak and slow evenings, each day somewhat different."""

    peak: float
    days: tuple[tuple[float, float], ...]  # times the peak, and how much later its morning is

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield the pieces of each day."""
        del rng
        for number, (times, later) in enumerate(self.days):
            midnight, peak = number * DAY_S, self.peak * times
            night = NIGHT * self.peak
            rise, fall = midnight + MORNING_S + later, midnight + EVENING_S
            yield rise, night
            yield from _ramp(rise, RISE_S, night, peak)
            yield fall, peak
            yield from _ramp(fall, FALL_S, peak, night)
            yield midnight + DAY_S, night
        yield duration_s, NIGHT * self.peak


def _ramp(begin: float, length_s: float, low: float, high: float) -> Iterator[Piece]:
    for step in range(_STEPS):
        yield (
            begin + (step + 1) * length_s / _STEPS,
            low + (high - low) * (step + 0.5) / _STEPS,
        )


@dataclass(frozen=True)
class ForecastSource:
    """The requests of the days; of ``cv``: at one rate, with gaps that differ so much."""

    cv: float | None = None

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        """Return the requests by time."""
        rng = Random(seed)
        days = tuple(
            (rng.uniform(1 - HIGHER, 1 + HIGHER), rng.uniform(-LATER_S, LATER_S))
            for _ in range(DAYS)
        )
        return list(generate([self._stream(tier, days) for tier in TIERS], seed, DAYS * DAY_S))

    @property
    def words(self) -> str:
        """Return the days in words."""
        if self.cv is None:
            return f"{DAYS} days of {DAY_S / 3600:g} h, at most {PEAK:g} requests/s"
        return f"{AT_REST * PEAK:g} requests/s, cv {self.cv:g}"

    def _stream(self, tier: DayTier, days: tuple[tuple[float, float], ...]) -> TraceStream:
        peak = PEAK * tier.share
        rate: ArrivalRate = WorkingDays(peak, days)
        return TraceStream(
            rate if self.cv is None else ConstantRate(AT_REST * peak),
            OneByPopularity(zipf(1, 1.0), AdapterNames(1, f"{tier.name}-", tier.name)),
            LogNormalLength(tier.prompt, SPREAD, most=2 * tier.prompt),
            LogNormalLength(tier.answer, SPREAD, most=3 * tier.answer),
            cv=self.cv or 1.0,
        )
