"""The named traces that differ by which adapters are asked for, and with which prompts.

Each is a function of a seed, a duration in seconds and parameters with defaults.
"""

from collections.abc import Iterator

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import (
    ConstantRate,
)
from cluster.simulation.traces.asking import (
    AdapterNames,
    FixedSets,
    InTurn,
    Mixtures,
    MovingHotSet,
    OneByPopularity,
    WideningSet,
)
from cluster.simulation.traces.lengths import FixedLength
from cluster.simulation.traces.one_stream import one_stream
from cluster.simulation.traces.parameters import (
    NotNegative,
    Positive,
    Share,
    Whole,
    WholeOrZero,
)
from cluster.simulation.traces.popularity import power_law, uniform, zipf
from cluster.simulation.traces.prompt_prefixes import SystemPrompts
from cluster.simulation.traces.stream import TraceStream, generate


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
    return one_stream(
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
    return one_stream(
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
    return one_stream(
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
    return one_stream(
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
    return one_stream(
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
