"""The requests of a day in small: three tiers, a flash crowd, and a tenant that means harm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from cluster.domain.ids import TenantId
from cluster.placement.policy import TierPolicy
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import PIECES, ArrivalRate, Diurnal, Piece
from cluster.simulation.traces.asking import AdapterNames, InTurn, Mixtures, OneByPopularity
from cluster.simulation.traces.lengths import LogNormalLength
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.stream import TraceStream, generate

DAY_S = 3600.0
"""Each hour of a day takes 150 s."""
PEAK = 4.0
"""Requests per second of all tiers at noon, without the crowd and the adversary."""
LEAST = 0.15
"""Of the peak, at midnight, when the trace begins."""
NOON_S = DAY_S / 2
SPREAD = 0.5
ADAPTERS_EACH = 4


@dataclass(frozen=True, slots=True)
class DayTier:
    """The tenants of one tier, who all ask alike."""

    name: str
    promise: TierPolicy
    tenants: int
    share: float  # of the load, all tenants together
    prompt: int  # tokens, the median
    answer: int


TIERS = (
    DayTier("gold", TierPolicy(ttft=1.0, itl=0.1, weight=4), 3, 0.2, 128, 64),
    DayTier("standard", TierPolicy(ttft=2.5, itl=0.15, weight=2), 4, 0.4, 256, 128),
    DayTier("batch", TierPolicy(ttft=15.0, itl=0.5, weight=1), 3, 0.4, 512, 256),
)
CROWDED = TenantId("standard-a-0")
CROWD_S = (1100.0, 1700.0)
CROWD_TIMES = 5.0
ADVERSARY = TenantId("adversary-0")
BURSTS_S = tuple((at, at + 30.0) for at in (600.0, 1500.0, 2100.0, 3000.0))
BURST_RATE = 2.0
FLOOD_S = (2400.0, 2700.0)
FLOOD_RATE = 4.0


@dataclass(frozen=True)
class Surge:
    """A rate that is higher for a while. Both times are ends of the rate's pieces."""

    base: ArrivalRate
    begin_s: float
    end_s: float
    times: float

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield the rate's own pieces."""
        for end, level in self.base.pieces(rng, duration_s):
            yield end, level * (self.times if self.begin_s < end <= self.end_s else 1.0)


@dataclass(frozen=True)
class Windows:
    """A constant rate within some windows, by time, and nothing outside."""

    rate: float
    windows: Sequence[tuple[float, float]]

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield a piece before each window and one for it."""
        del rng
        for begin, end in self.windows:
            yield begin, 0.0
            yield end, self.rate
        yield duration_s, 0.0


@dataclass(frozen=True)
class DaySource:
    """The day's requests."""

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        """Return the requests by time."""
        streams = [stream for tier in TIERS for stream in _tenants(tier)]
        return list(generate([*streams, _one_off(), _flood()], seed, DAY_S))

    @property
    def words(self) -> str:
        """Return the day in words."""
        return f"a day in {DAY_S / 3600:g} h, at most {PEAK:g} requests/s"


def _tenants(tier: DayTier) -> Iterator[TraceStream]:
    mean, depth = (1 + LEAST) / 2, (1 - LEAST) / (1 + LEAST)
    for number in range(tier.tenants):
        letter = chr(ord("a") + number)
        names = AdapterNames(1, f"{tier.name}-{letter}-", f"{tier.name}-{letter}")
        first = OneByPopularity(zipf(ADAPTERS_EACH, 1.0), names)
        rate: ArrivalRate = Diurnal(PEAK * tier.share / tier.tenants * mean, depth, DAY_S)
        if names.tenant_of(0) == CROWDED:
            rate = Surge(rate, *CROWD_S, CROWD_TIMES)
        yield TraceStream(
            rate,
            Mixtures(first, (0.75, 0.25), block=2, within=1.0),
            LogNormalLength(tier.prompt, SPREAD, most=2 * tier.prompt),
            LogNormalLength(tier.answer, SPREAD, most=3 * tier.answer),
        )


def _one_off() -> TraceStream:
    """Ask for adapters of which none is asked for twice."""
    names = AdapterNames(1, "once", "adversary")
    enough = 2 * round(BURST_RATE * sum(end - begin for begin, end in BURSTS_S))
    return TraceStream(
        Windows(BURST_RATE, BURSTS_S),
        InTurn(enough, names),
        LogNormalLength(64, SPREAD),
        LogNormalLength(8, SPREAD),
    )


def _flood() -> TraceStream:
    """Ask for a few adapters as often as all tenants together at noon."""
    return TraceStream(
        Windows(FLOOD_RATE, (FLOOD_S,)),
        OneByPopularity(zipf(ADAPTERS_EACH, 1.0), AdapterNames(1, "flood", "adversary")),
        LogNormalLength(256, SPREAD, most=1024),
        LogNormalLength(128, SPREAD, most=512),
    )


assert all(at * PIECES % DAY_S == 0 for at in CROWD_S), "the crowd begins and ends with a piece"
