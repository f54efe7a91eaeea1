"""Times short answers of one tenant while another has long prompts computed all the time."""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.adapters.result import ProofVerdict, Table, median
from benchmarks.fairness.tenant_load import TenantLoad
from cluster.placement.policy import TierPolicy
from testing.timed_request import Reply

PROMISED = TierPolicy()
"""Times of the default policy, which is in force."""


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Short answers alone and next to long prompts."""

    alone: Sequence[Reply]
    beside: Sequence[Reply]
    computed: int  # long prompts meanwhile


async def measure_long_prompts(
    long: TenantLoad, short: TenantLoad, options: argparse.Namespace
) -> LongPrompts:
    """Ask for short answers one after another, first alone, then next to long prompts."""
    alone = await _ask_in_turn(short, options)
    is_over = False
    before = len(long.replies)
    running = asyncio.create_task(long.keep_asking(options.long_streams, 1, lambda: is_over))
    await asyncio.sleep(options.gap_s)
    beside = await _ask_in_turn(short, options)
    computed = len(long.replies) - before
    is_over = True
    await running
    return LongPrompts(alone, beside, computed)


async def _ask_in_turn(short: TenantLoad, options: argparse.Namespace) -> list[Reply]:
    before = len(short.replies)
    wanted = before + options.short_answers
    await short.ask_singly(options.short_tokens, 0.0, lambda: len(short.replies) >= wanted)
    return short.replies[before:]


def judge_long_prompts(found: LongPrompts) -> list[ProofVerdict]:
    """Compare the times with those that the default policy promises."""
    return [
        ProofVerdict(
            "time to the first token next to long prompts of another tenant, median",
            median([reply.ttft for reply in found.beside]),
            PROMISED.ttft,
            unit=" s",
        ),
        ProofVerdict(
            "mean time between tokens there, median",
            median([_between(reply) for reply in found.beside]),
            2 * PROMISED.itl,
            unit=" s",
        ),
    ]


def long_prompts_tables(found: LongPrompts, options: argparse.Namespace) -> list[Table]:
    """Show the times of short answers."""
    return [
        Table(
            "Long prompts",
            ("", "answers", "TTFT p50, ms", "longest", "between tokens, ms", "longest", "whole"),
            (_row("alone", found.alone), _row("next to long prompts", found.beside)),
            note=(
                f"Answers of {options.short_tokens} tokens, one after another. The other tenant "
                f"has {options.long_streams} prompts of {options.long_prompt_tokens} tokens under "
                f"way at any time, {found.computed} in all. The default policy promises "
                f"{PROMISED.ttft:g} s to the first token and {PROMISED.itl:g} s between tokens; a "
                "step that cannot keep that may take twice as long as without prompts."
            ),
        )
    ]


def _row(name: str, replies: Sequence[Reply]) -> tuple[object, ...]:
    ttft = [reply.ttft for reply in replies]
    gaps = [gap for reply in replies for gap in reply.gaps]
    whole = median([reply.ended - reply.sent for reply in replies])
    times = (median(ttft), max(ttft), median([_between(r) for r in replies]), max(gaps), whole)
    return (name, len(replies), *(round(seconds * 1e3) for seconds in times))


def _between(reply: Reply) -> float:
    """Return the mean seconds between a reply's tokens."""
    return (reply.arrivals[-1] - reply.arrivals[0]) / max(1, len(reply.arrivals) - 1)
