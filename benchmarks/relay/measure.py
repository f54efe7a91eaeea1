"""One case: so many streams at a time, and what the server's process spends meanwhile."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.relay.streams import StreamClient, StreamsAsked

ENDLESS = 1 << 19  # tokens that no stream reaches
SETTLED = 5  # tokens of every stream before anything is measured
START_TIMEOUT_S = 60.0
ids = map("stream-{}".format, itertools.count())


@dataclass(frozen=True, slots=True)
class RelayCase:
    """Describes one load to measure."""

    name: str
    streams: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of time in which nothing begins or ends."""

    seconds: float
    cpu_s: float
    tokens: int
    events: int

    def cpu_us_per_token(self, idle: float) -> float:
        """Return microseconds a token, without the share ``idle`` of a core."""
        return (self.cpu_s - idle * self.seconds) / max(1, self.tokens) * 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one case; times in milliseconds, medians over the windows where not said otherwise."""

    name: str
    streams: int
    interval_ms: float
    cpu_us_per_token: float
    cpu_us_each: tuple[float, ...]  # of the windows
    core_share: float  # of one core, with the idle part
    tokens_per_s: float
    events_per_s: float
    relay_ms_p50: float  # from the replica's sending to the client's reading; 0: not known
    relay_ms_p99: float
    ttft_ms_p50: float  # of requests one after another next to the streams
    ttft_ms_p99: float


SentTimes = Callable[[], Awaitable[dict[str, list[float]]]]


def process_cpu_s(pid: int) -> float:
    """Return user and system time of all threads of a process, in seconds, to the nanosecond.

    Linux and the like: the clock that ``clock_getcpuclockid`` names.
    """
    return time.clock_gettime((~pid << 3) | 2)


async def idle_share(pid: int, seconds: float) -> float:
    """Return the share of a core that a process takes with nothing to do."""
    before, started = process_cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (process_cpu_s(pid) - before) / (time.monotonic() - started)


async def run_case(
    case: RelayCase,
    asked: StreamsAsked,
    pid: int,
    *,
    max_tokens: int = ENDLESS,
    idle: float,
    windows: int,
    window_s: float,
    probes: int,
    sent: SentTimes | None = None,
) -> Figures:
    """Open the streams, measure, and close them again.

    Args:
        pid: the server's process.
        max_tokens: of each stream; the server must have more than is read meanwhile.
        idle: share of a core to leave out, see `idle_share`.
        sent: tells when the replica sent what, where it is scripted.
    """
    clients = [
        await asked.stream(next(ids), max_tokens=max_tokens, at_least=SETTLED)
        for _ in range(case.streams)
    ]
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await asyncio.gather(*(client.begun for client in clients))
        measured = [await _window(clients, pid, window_s) for _ in range(windows)]
        delays = _delays(clients, await sent()) if sent is not None else []
        firsts = [await _probe(asked) for _ in range(probes)]
    finally:
        for client in clients:
            client.close()
    await asyncio.gather(*(client.closed for client in clients))
    each = tuple(round(window.cpu_us_per_token(idle), 1) for window in measured)
    return Figures(
        name=case.name,
        streams=case.streams,
        interval_ms=case.interval_s * 1e3,
        cpu_us_per_token=statistics.median(each),
        cpu_us_each=each,
        core_share=statistics.median(window.cpu_s / window.seconds for window in measured),
        tokens_per_s=statistics.median(window.tokens / window.seconds for window in measured),
        events_per_s=statistics.median(window.events / window.seconds for window in measured),
        relay_ms_p50=_percentile(delays, 0.5) * 1e3,
        relay_ms_p99=_percentile(delays, 0.99) * 1e3,
        ttft_ms_p50=_percentile(firsts, 0.5) * 1e3,
        ttft_ms_p99=_percentile(firsts, 0.99) * 1e3,
    )


async def _window(clients: Sequence[StreamClient], pid: int, seconds: float) -> Window:
    def state() -> tuple[float, float, int, int]:
        arrived = [client.arrivals for client in clients]
        tokens = sum(one.tokens for one in arrived)
        return time.monotonic(), process_cpu_s(pid), tokens, sum(one.events for one in arrived)

    before = state()
    await asyncio.sleep(seconds)
    after = state()
    if any(client.closed.done() for client in clients):
        raise ConnectionError("a stream ended while it was measured")
    elapsed, cpu, tokens, events = (b - a for a, b in zip(before, after, strict=True))
    return Window(elapsed, cpu, int(tokens), int(events))


async def _probe(asked: StreamsAsked) -> float:
    client = await asked.stream(next(ids), max_tokens=2)
    async with asyncio.timeout(START_TIMEOUT_S):
        await client.begun
    client.close()
    return client.arrivals.first_after_s


def _delays(clients: Sequence[StreamClient], sent: dict[str, list[float]]) -> list[float]:
    """Return seconds from sending to reading of each token that has been read."""
    return [
        read - at
        for client in clients
        for at, read in zip(sent[client.arrivals.id], client.arrivals.at, strict=False)
    ]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
