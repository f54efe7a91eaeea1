"""The traces that have a name: for tests, sweeps and the command line.

Each is a function of a seed, a duration and parameters with defaults, in the words of
``docs/simulator.md``.
"""

from collections.abc import Callable, Iterator, Mapping

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import (
    ArrivalRate,
    ConstantRate,
    Diurnal,
    FlashCrowd,
    MarkovRate,
    SquareWave,
)
from cluster.simulation.traces.asking import (
    AdapterNames,
    AskRule,
    FixedSets,
    InTurn,
    Mixtures,
    MovingHotSet,
    OneByPopularity,
    WideningSet,
)
from cluster.simulation.traces.lengths import FixedLength, Lengths, LogNormalLength
from cluster.simulation.traces.parameters import (
    NotNegative,
    Positive,
    Share,
    Variation,
    Whole,
    WholeOrZero,
)
from cluster.simulation.traces.popularity import power_law, uniform, zipf
from cluster.simulation.traces.prompt_prefixes import SystemPrompts
from cluster.simulation.traces.stream import TraceStream, generate

NamedTrace = Callable[..., Iterator[TraceRequest]]
"""Called with ``seed`` and ``duration`` (seconds), and its parameters by name."""


def _lengths(tokens: int, spread: float) -> Lengths:
    """Return fixed lengths, or lognormal ones around ``tokens``."""
    return FixedLength(tokens) if spread == 0 else LogNormalLength(tokens, spread, most=8 * tokens)


def _one(
    rate: ArrivalRate,
    asking: AskRule,
    seed: int,
    duration: float,
    *,
    prompt: int,
    answer: int,
    spread: float = 0.0,
    cv: float = 1.0,
) -> Iterator[TraceRequest]:
    stream = TraceStream(rate, asking, _lengths(prompt, spread), _lengths(answer, spread), cv=cv)
    return generate([stream], seed, duration)


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
    return _one(
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
    asking = OneByPopularity(zipf(adapters, s), AdapterNames(tenants))
    return _one(
        ConstantRate(rate), asking, seed, duration,
        prompt=prompt, answer=answer, spread=spread, cv=cv,
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
    return _one(
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
    return _one(
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
    return _one(
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
    return _one(
        FlashCrowd(base, peak, at, decay), OneByPopularity(zipf(adapters, s)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def lasting(
    seed: int,
    duration: Positive = 1200.0,
    *,
    rate: Positive = 10.0,
    adapters: Whole = 60,
    s: NotNegative = 1.0,
    tenants: Whole = 4,
    pairs: Share = 0.2,
    prompt: Whole = 64,
    answer: Whole = 32,
    spread: NotNegative = 0.0,
) -> Iterator[TraceRequest]:
    """Ask for adapters, and for a share of pairs, by rates that last."""
    first = OneByPopularity(zipf(adapters, s), AdapterNames(tenants))
    asking = Mixtures(first, (1 - pairs, pairs), block=2, within=1.0)
    return _one(
        ConstantRate(rate), asking, seed, duration, prompt=prompt, answer=answer, spread=spread
    )


def pair_sets(
    seed: int,
    duration: Positive = 600.0,
    *,
    rate: Positive = 6.0,
    count: Whole = 12,
    s: NotNegative = 0.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask for disjoint pairs of adapters by Zipf's popularity."""
    sets = tuple((2 * number, 2 * number + 1) for number in range(count))
    return _one(
        ConstantRate(rate), FixedSets(sets, zipf(count, s)),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def moving_hot_set(
    seed: int,
    duration: Positive = 1200.0,
    *,
    rate: Positive = 6.0,
    adapters: Whole = 30,
    hot: Whole = 6,
    move: Positive = 60.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask for few adapters at a time, and for others from time to time."""
    return _one(
        ConstantRate(rate), MovingHotSet(adapters, hot, move),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def widening(
    seed: int,
    duration: Positive = 1200.0,
    *,
    rate: Positive = 6.0,
    first: Whole = 8,
    adapters: Whole = 64,
    step: Positive = 120.0,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask at a flat rate for twice as many adapters after each step."""
    steps = [first]
    while steps[-1] < adapters:
        steps.append(min(2 * steps[-1], adapters))
    return _one(
        ConstantRate(rate), WideningSet(tuple(steps), step),
        seed, duration, prompt=prompt, answer=answer,
    )  # fmt: skip


def drifting(
    seed: int,
    duration: Positive = 1800.0,
    *,
    rate: Positive = 24.0,
    adapters: Whole = 500,
    alpha: Positive = 0.3,
    rotate: Positive = 60.0,
    shift: WholeOrZero = 5,
    tenants: Whole = 20,
    block: Whole = 4,
    prompt: Whole = 128,
    answer: Whole = 48,
    spread: NotNegative = 0.6,
) -> Iterator[TraceRequest]:
    """Ask for sets of 1 to 4 adapters by a power law whose ranks rotate."""
    first = OneByPopularity(power_law(adapters, alpha), AdapterNames(tenants), rotate, shift)
    asking = Mixtures(first, (0.5, 0.3, 0.15, 0.05), block)
    return _one(
        ConstantRate(rate), asking, seed, duration, prompt=prompt, answer=answer, spread=spread
    )


def adversary(
    seed: int,
    duration: Positive = 900.0,
    *,
    rate: Positive = 0.2,
    pressure: Positive = 4.0,
    cold: Whole = 39,
    prompt: Whole = 64,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask now and then for a quiet tenant's only adapter, and often for many cold ones."""
    sizes = FixedLength(prompt), FixedLength(answer)
    quiet = OneByPopularity(uniform(1), AdapterNames(1, "quiet", "quiet"))
    loud = InTurn(cold, AdapterNames(1, "cold", "loud"))
    streams = [
        TraceStream(ConstantRate(rate), quiet, *sizes),
        TraceStream(ConstantRate(pressure), loud, *sizes),
    ]
    return generate(streams, seed, duration)


def system_prompts(
    seed: int,
    duration: Positive = 900.0,
    *,
    rate: Positive = 4.0,
    share: Share = 0.8,
    common: Whole = 128,
    adapters: Whole = 8,
    tenants: Whole = 4,
    prompt: Whole = 192,
    answer: Whole = 32,
) -> Iterator[TraceRequest]:
    """Ask with prompts whose beginning is their tenant's system prompt."""
    stream = TraceStream(
        ConstantRate(rate),
        OneByPopularity(zipf(adapters, 1.0), AdapterNames(tenants)),
        FixedLength(prompt),
        FixedLength(answer),
        SystemPrompts(share, common),
    )
    return generate([stream], seed, duration)


GENERATED_TRACES: Mapping[str, NamedTrace] = {
    "constant": constant,
    "bursty": bursty,
    "mmpp": mmpp,
    "square": square,
    "diurnal": diurnal,
    "flash-crowd": flash_crowd,
    "lasting": lasting,
    "pairs": pair_sets,
    "moving-hot-set": moving_hot_set,
    "widening": widening,
    "drifting": drifting,
    "adversary": adversary,
    "system-prompts": system_prompts,
}
