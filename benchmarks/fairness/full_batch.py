"""Times single requests of one tenant while another fills the batch and the queue."""

import argparse
import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.adapters.result import ProofVerdict, Table, median, percentile
from benchmarks.fairness.tenant_load import TenantLoad, served_tokens
from cluster.simulation.report.statistics import Interval, interval
from testing.timed_request import Reply

TTFT_S = 1.5
"""Longest time to the first token of a single request, at the 99th percentile."""
RATIO = 1.5
"""Most times as long as in a batch with a free row."""
LOSS = 0.05
"""Most of the throughput that single requests of another tenant may cost."""


@dataclass
class SharedFlood:
    """One flood of requests sent at once, in which single requests come in every other window."""

    replies: Sequence[Reply]
    ttft: Sequence[float]  # of the single requests, seconds
    kept: Sequence[float]  # throughput of each window with them, of the one before without


@dataclass
class FullBatch:
    """Figures of all floods."""

    with_room: Sequence[float]  # TTFT in a batch with one free row, seconds
    alone: Sequence[Reply]  # of the flood without single requests
    shared: Sequence[SharedFlood]

    @property
    def ttft(self) -> list[float]:
        """Return the times of all single requests during floods."""
        return [seconds for flood in self.shared for seconds in flood.ttft]

    @property
    def kept(self) -> Interval:
        """Return the part of its throughput that a flood keeps, over all pairs of windows."""
        return interval([part for flood in self.shared for part in flood.kept])


async def measure_full_batch(
    flood: TenantLoad, single: TenantLoad, rows: int, options: argparse.Namespace
) -> FullBatch:
    """Run a batch with one free row, a flood alone, then floods with single requests."""
    with_room = await _with_room(flood, single, rows - 1, options)
    alone = await flood.ask_all(options.streams, options.tokens)
    shared = []
    for number in range(options.rounds):
        shared.append(await _shared_flood(flood, single, rows, options))
        print(f"  flood {number + 1} of {options.rounds}", flush=True)
    return FullBatch(with_room, alone, shared)


async def _with_room(
    flood: TenantLoad, single: TenantLoad, rows: int, options: argparse.Namespace
) -> list[float]:
    rows_taken = asyncio.create_task(flood.keep_asking(rows, options.tokens, lambda: False))
    await flood.wait_begun(rows)
    end = time.perf_counter() + options.room_s
    found = await single.ask_singly(
        options.single_tokens, options.gap_s, lambda: time.perf_counter() > end
    )
    rows_taken.cancel()
    await asyncio.gather(rows_taken, return_exceptions=True)
    return found


async def _shared_flood(
    flood: TenantLoad, single: TenantLoad, rows: int, options: argparse.Namespace
) -> SharedFlood:
    running = asyncio.create_task(flood.ask_all(options.streams, options.tokens))
    await flood.wait_begun(min(rows, options.streams))
    ttft: list[float] = []
    turns = []
    while not running.done():
        begin = time.perf_counter()
        await asyncio.wait({running}, timeout=options.window_s)
        middle = time.perf_counter()
        ttft += await single.ask_singly(
            options.single_tokens,
            options.gap_s,
            partial(_is_over, running, middle + options.window_s),
        )
        turns.append((begin, middle, time.perf_counter()))
    replies = await running
    return SharedFlood(replies, ttft, kept_in_turns(replies, turns, rows, options.tokens))


def _is_over(flood: asyncio.Task[list[Reply]], end: float) -> bool:
    return flood.done() or time.perf_counter() > end


def kept_in_turns(
    replies: Sequence[Reply], turns: Iterable[tuple[float, float, float]], rows: int, tokens: int
) -> list[float]:
    """Return the throughput of each turn's second window, of that of its first.

    Turns that end when fewer than all rows were left to the flood do not count.

    Args:
        turns: when each began, had its middle, and ended.
        tokens: of each answer.
    """
    full = sorted(reply.ended for reply in replies)[-min(rows, len(replies))]
    kept = []
    for begin, middle, end in turns:
        if end <= full:
            alone = served_tokens(replies, tokens, begin, middle) / (middle - begin)
            shared = served_tokens(replies, tokens, middle, end) / (end - middle)
            kept.append(shared / alone)
    return kept


def judge_full_batch(found: FullBatch) -> list[ProofVerdict]:
    """Compare the figures with what is demanded."""
    p99 = percentile(found.ttft, 0.99)
    return [
        ProofVerdict("TTFT p99 of single requests during a flood", p99, TTFT_S, unit=" s"),
        ProofVerdict(
            "the same, of that with one row free",
            p99 / percentile(found.with_room, 0.99),
            RATIO,
        ),
        ProofVerdict(
            "their median, of that with one row free",
            median(found.ttft) / median(found.with_room),
            RATIO,
        ),
        ProofVerdict(
            "throughput of a flood with single requests, of that alone",
            found.kept.mean,
            1 - LOSS,
            at_least=True,
        ),
    ]


def full_batch_tables(found: FullBatch, rows: int, options: argparse.Namespace) -> list[Table]:
    """Show the floods."""
    texts = [reply.text for reply in found.alone]
    kept = found.kept
    half = "" if kept.half is None else f" ± {100 * kept.half:.1f}"
    pairs = sum(len(flood.kept) for flood in found.shared)
    return [
        Table(
            "A full batch",
            ("", "tokens/s of the flood", "answers as alone", *_TTFT_HEAD),
            (
                (f"with {rows - 1} of {rows} rows taken", "", "", *_ttft_cells(found.with_room)),
                ("alone", _rate(found.alone, options.tokens), len(texts), "", "", "", ""),
                *(
                    (
                        "with single requests",
                        _rate(flood.replies, options.tokens),
                        sum(a.text == b for a, b in zip(flood.replies, texts, strict=True)),
                        *_ttft_cells(flood.ttft),
                    )
                    for flood in found.shared
                ),
            ),
            note=(
                f"The flood: {options.streams} requests for {options.tokens} tokens at once, with "
                "the same prompts in each run. Once it has all rows, another tenant asks for "
                f"{options.single_tokens} tokens, one request after another, at most one in "
                f"{options.gap_s:g} s, in every other {options.window_s:g} s. Of the flood's "
                f"throughput in the window before, {100 * kept.mean:.1f}{half} % is kept "
                f"({pairs} pairs of windows, 95 %). Answers as alone: those with the text of the "
                "first flood."
            ),
        )
    ]


def _rate(replies: Sequence[Reply], tokens: int) -> float:
    """Return the tokens per second from the first request to the last answer's end."""
    elapsed = max(reply.ended for reply in replies) - min(reply.sent for reply in replies)
    return round(len(replies) * tokens / elapsed, 1)


_TTFT_HEAD = ("single requests", "TTFT p50, ms", "p99", "longest")


def _ttft_cells(ttft: Sequence[float]) -> tuple[object, ...]:
    if not ttft:
        return ("", "", "", "")
    times = (median(ttft), percentile(ttft, 0.99), max(ttft))
    return (len(ttft), *(round(seconds * 1e3) for seconds in times))
