"""Generates a trace of a single stream, as most traces with a name are."""

from collections.abc import Iterator

from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import (
    ArrivalRate,
)
from cluster.simulation.traces.asking import (
    AskRule,
)
from cluster.simulation.traces.lengths import FixedLength, Lengths, LogNormalLength
from cluster.simulation.traces.stream import TraceStream, generate


def lengths_around(tokens: int, spread: float) -> Lengths:
    """Return fixed lengths, or lognormal ones around ``tokens``."""
    return FixedLength(tokens) if spread == 0 else LogNormalLength(tokens, spread, most=8 * tokens)


def one_stream(
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
    """Ask in one stream; lengths are in tokens, and spread lognormally unless ``spread`` is 0."""
    stream = TraceStream(
        rate, asking, lengths_around(prompt, spread), lengths_around(answer, spread), cv=cv
    )
    return generate([stream], seed, duration)
