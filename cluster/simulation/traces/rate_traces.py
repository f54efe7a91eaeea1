"""The named traces that differ by when requests come, in the words of ``docs/simulator.md``.

Each is a function of a seed, a duration in seconds and parameters with defaults.
"""

from collections.abc import Iterator

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import (
    ConstantRate,
    Diurnal,
    FlashCrowd,
    MarkovRate,
    SquareWave,
)
from cluster.simulation.traces.asking import (
    AdapterNames,
    OneByPopularity,
)
from cluster.simulation.traces.one_stream import one_stream
from cluster.simulation.traces.parameters import (
    NotNegative,
    Positive,
    Share,
    Variation,
    Whole,
)
from cluster.simulation.traces.popularity import zipf


def constant(
    seed: int,
    duration: Positive = 3600.0,
    *,
    rate: Positive = 3.6,
    adapters: Whole = 8,
    s: NotNegative = 0.0,
    tenants: Whole = 1,
    cv: Variation = 1.0,
    prompt: Whole = 64,
    answer: Whole = 32,
    spread: NotNegative = 0.0,
) -> Iterator[TraceRequest]:
    """Ask at a constant rate for adapters by Zipf's popularity."""
    asking = OneByPopularity(zipf(adapters, s), AdapterNames(tenants))
    return one_stream(
        ConstantRate(rate), asking, seed, duration,
        prompt=prompt, answer=answer, spread=spread, cv=cv,
    )  # fmt: skip


def bursty(
    seed: int,
    duration: Positive = 3600.0,
    *,
    rate: Positive = 4.0,
    cv: Variation = 3.0,
    adapters: Whole = 24,
    s: NotNegative = 1.0,
    tenants: Whole = 4,
    prompt: Whole = 128,
    answer: Whole = 48,
    spread: NotNegative = 0.6,
) -> Iterator[TraceRequest]:
    """Ask with Gamma gaps of a high coefficient of variation."""
    return constant(
        seed, duration, rate=rate, adapters=adapters, s=s, tenants=tenants, cv=cv,
        prompt=prompt, answer=answer, spread=spread,
    )  # fmt: skip


def mmpp(
    seed: int,
    duration: Positive = 3600.0,
    *,
    low: Positive = 1.0,
    high: Positive = 8.0,
    low_s: Positive = 120.0,
    high_s: Positive = 30.0,
    adapters: Whole = 24,
    s: NotNegative = 1.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask at a rate that a Markov chain of two states switches."""
    return one_stream(
        MarkovRate((low, high), (low_s, high_s)), OneByPopularity(zipf(adapters, s)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def square(
    seed: int,
    duration: Positive = 3600.0,
    *,
    low: Positive = 1.0,
    high: Positive = 6.0,
    period: Positive = 600.0,
    adapters: Whole = 8,
    s: NotNegative = 0.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask at two rates in turn."""
    return one_stream(
        SquareWave(low, high, period), OneByPopularity(zipf(adapters, s)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def diurnal(
    seed: int,
    duration: Positive = 86400.0,
    *,
    mean: Positive = 2.0,
    depth: Share = 0.8,
    period: Positive = 86400.0,
    adapters: Whole = 40,
    s: NotNegative = 1.0,
    tenants: Whole = 4,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask at a rate that follows a cosine, lowest at the beginning."""
    return one_stream(
        Diurnal(mean, depth, period), OneByPopularity(zipf(adapters, s), AdapterNames(tenants)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def flash_crowd(
    seed: int,
    duration: Positive = 1800.0,
    *,
    base: Positive = 1.0,
    peak: Positive = 10.0,
    at: Positive = 600.0,
    decay: Positive = 120.0,
    adapters: Whole = 8,
    s: NotNegative = 1.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask at a constant rate that jumps at one moment and decays."""
    return one_stream(
        FlashCrowd(base, peak, at, decay), OneByPopularity(zipf(adapters, s)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip
