"""Counts the tokens of two tenants that always have requests waiting, by their weights."""

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.adapters.result import ProofVerdict, Table
from benchmarks.fairness.tenant_load import TenantLoad, served_tokens

HEAVY, LIGHT = 3.0, 1.0
SETTLED_S = 30.0
"""Seconds after which new weights show in the tokens."""
BIN_S = 10.0
WITHIN = 0.05
"""Largest deviation of the ratio of tokens from that of weights."""

SetWeights = Callable[[Mapping[str, float]], None]
"""Puts weights of tenants in force; called in a thread."""


@dataclass
class Backlog:
    """Tokens of two tenants. Moments are ``time.perf_counter()``."""

    first: TenantLoad
    second: TenantLoad
    tokens: int  # of each answer
    begin: float
    swapped: float
    end: float

    def served(self, begin: float, end: float) -> tuple[float, float]:
        """Return the tokens of both from ``begin`` until ``end``."""
        first, second = (
            served_tokens(load.replies, self.tokens, begin, end)
            for load in (self.first, self.second)
        )
        return first, second

    def ratio(self, begin: float, end: float) -> float:
        """Return the first one's tokens for each of the second's."""
        first, second = self.served(begin, end)
        return first / second if second else float("nan")


async def measure_backlog(
    first: tuple[str, TenantLoad],
    second: tuple[str, TenantLoad],
    set_weights: SetWeights,
    options: argparse.Namespace,
) -> Backlog:
    """Keep both backlogged with weights 3 : 1, then swap the weights."""
    names, loads = (first[0], second[0]), (first[1], second[1])
    await asyncio.to_thread(set_weights, dict(zip(names, (HEAVY, LIGHT), strict=True)))
    over = False
    running = [
        asyncio.create_task(load.keep_asking(options.backlog, options.backlog_tokens, lambda: over))
        for load in loads
    ]
    await asyncio.sleep(SETTLED_S)
    begin = time.perf_counter()
    await asyncio.sleep(options.seconds)
    swapped = time.perf_counter()
    await asyncio.to_thread(set_weights, dict(zip(names, (LIGHT, HEAVY), strict=True)))
    await asyncio.sleep(swapped + SETTLED_S + options.seconds / 2 - time.perf_counter())
    end = time.perf_counter()
    over = True
    await asyncio.gather(*running)
    return Backlog(*loads, options.backlog_tokens, begin, swapped, end)


def judge_backlog(found: Backlog) -> list[ProofVerdict]:
    """Compare tokens with weights."""
    before = found.ratio(found.begin, found.swapped) / (HEAVY / LIGHT)
    after = found.ratio(found.swapped + SETTLED_S, found.end) / (LIGHT / HEAVY)
    return [
        ProofVerdict("tokens of weights 3 : 1, deviation of their ratio", abs(before - 1), WITHIN),
        ProofVerdict(
            f"the same {SETTLED_S:g} s after the weights were swapped", abs(after - 1), WITHIN
        ),
    ]


def backlog_tables(found: Backlog, options: argparse.Namespace) -> list[Table]:
    """Show the tokens in time."""
    spans = [
        ("weights 3 : 1", found.begin, found.swapped),
        (
            f"weights 1 : 3, from {SETTLED_S:g} s after the change on",
            found.swapped + SETTLED_S,
            found.end,
        ),
    ]
    count = int((found.end - found.swapped) // BIN_S)
    edges = [found.swapped + BIN_S * number for number in range(-1, count + 1)]
    spans += [
        (f"{begin - found.swapped:g} to {end - found.swapped:g} s", begin, end)
        for begin, end in itertools.pairwise(edges)
    ]
    return [
        Table(
            "Two tenants with requests waiting",
            ("", "tokens of the first", "of the second", "ratio"),
            tuple(
                (name, *map(round, found.served(begin, end)), round(found.ratio(begin, end), 3))
                for name, begin, end in spans
            ),
            note=(
                f"Each has {options.backlog} requests for {options.backlog_tokens} tokens at any "
                "time. The last rows count from the moment at which the weights were swapped."
            ),
        )
    ]
