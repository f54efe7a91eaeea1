"""Times single requests of one tenant while another fills the batch and the queue."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.adapters.result import ProofVerdict, Table, median, percentile
from benchmarks.fairness.tenant_load import TenantLoad

TTFT_S = 1.5
"""Longest time to the first token of a single request, at the 99th percentile."""
RATIO = 1.5
"""Most times as long as in a batch with a free row."""
LOSS = 0.05
"""Most of the throughput that single requests of another tenant may cost."""


@dataclass
class FloodRun:
    """One flood of requests sent at once, from the first to the last token."""

    name: str
    tokens_per_s: float
    texts: Sequence[str]
    ttft: list[float] = field(default_factory=list)  # of the other tenant, seconds


@dataclass
class FullBatch:
    """Figures of all runs."""

    with_room: list[float]  # TTFT in a batch with one free row, seconds
    runs: list[FloodRun]

    @property
    def alone(self) -> list[FloodRun]:
        """Return the floods without another tenant."""
        return [run for run in self.runs if not run.ttft]

    @property
    def shared(self) -> list[FloodRun]:
        """Return the floods with single requests of another tenant."""
        return [run for run in self.runs if run.ttft]

    @property
    def ttft(self) -> list[float]:
        """Return the times of all single requests during floods."""
        return [seconds for run in self.shared for seconds in run.ttft]

    @property
    def kept(self) -> float:
        """Return the part of its throughput that the flood keeps."""
        shared = median([run.tokens_per_s for run in self.shared])
        return shared / median([run.tokens_per_s for run in self.alone])


async def measure_full_batch(
    flood: TenantLoad, single: TenantLoad, rows: int, options: argparse.Namespace
) -> FullBatch:
    """Run a batch with one free row, then floods without and with single requests in turns."""
    with_room = await _with_room(flood, single, rows - 1, options)
    runs = []
    for number in range(2 * options.rounds + 1):
        runs.append(await _flood(flood, single if number % 2 else None, rows, options))
        print(f"  flood {number + 1} of {2 * options.rounds + 1}", flush=True)
    return FullBatch(with_room, runs)


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


async def _flood(
    flood: TenantLoad, single: TenantLoad | None, rows: int, options: argparse.Namespace
) -> FloodRun:
    began = time.perf_counter()
    running = asyncio.create_task(flood.ask_all(options.streams, options.tokens))
    ttft = []
    if single is not None:
        await flood.wait_begun(min(rows, options.streams))
        ttft = await single.ask_singly(options.single_tokens, options.gap_s, running.done)
    replies = await running
    elapsed = max(reply.ended for reply in replies) - began
    name = "alone" if single is None else "with single requests"
    rate = options.streams * options.tokens / elapsed
    return FloodRun(name, rate, [reply.text for reply in replies], ttft)


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
            found.kept,
            1 - LOSS,
            at_least=True,
        ),
    ]


def full_batch_tables(found: FullBatch, rows: int, options: argparse.Namespace) -> list[Table]:
    """Show the runs."""
    texts = found.runs[0].texts
    return [
        Table(
            "A full batch",
            ("", "tokens/s of the flood", "answers as alone", *_TTFT_HEAD),
            (
                (f"with {rows - 1} of {rows} rows taken", "", "", *_ttft_cells(found.with_room)),
                *(
                    (
                        run.name,
                        round(run.tokens_per_s, 1),
                        f"{sum(a == b for a, b in zip(run.texts, texts, strict=True))}",
                        *_ttft_cells(run.ttft),
                    )
                    for run in found.runs
                ),
            ),
            note=(
                f"The flood: {options.streams} requests for {options.tokens} tokens at once, with "
                "the same prompts in each run. Once it has all rows, another tenant asks for "
                f"{options.single_tokens} tokens, one request after another, at most one in "
                f"{options.gap_s:g} s. Answers as alone: those with the text of the first run."
            ),
        )
    ]


_TTFT_HEAD = ("single requests", "TTFT p50, ms", "p99", "longest")


def _ttft_cells(ttft: Sequence[float]) -> tuple[object, ...]:
    if not ttft:
        return ("", "", "", "")
    times = (median(ttft), percentile(ttft, 0.99), max(ttft))
    return (len(ttft), *(round(seconds * 1e3) for seconds in times))
