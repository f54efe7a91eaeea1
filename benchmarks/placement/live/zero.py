"""Measures a cluster without a replica: how soon requests that come are answered (row N20)."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from benchmarks.adapters.base_models import QUICKSTART
from benchmarks.placement.live.policy_edits import EditedCluster
from benchmarks.placement.row import ResultRow
from benchmarks.shared.quiet import quiet
from cluster.domain.model_names import short_name
from cluster.tenancy.quickstart import DEMO_TENANTS

TENANT = DEMO_TENANTS[0]
SLACK_S = 2.0
TOKENS = 4
NOTICE_S = 2.5
"""The controller has surely read the policy file after that."""


@dataclass(frozen=True)
class ZeroRound:
    """One start for its own sake, and one for requests; in seconds."""

    start_s: float  # from the edit that asks for a replica until a front can reach it
    first_s: float  # from the first request to the first answer's first byte
    last_s: float  # to the last answer's end
    lost: int  # requests without a whole answer


def rows(arguments: Sequence[str] | None = ()) -> list[ResultRow]:
    """Run it and return its row of the table."""
    options = options_of(arguments)
    rounds = measure(options)
    starts = median(each.start_s for each in rounds)
    first = [each.first_s for each in rounds]
    lost = sum(each.lost for each in rounds)
    asked = options.requests * len(rounds)
    return [
        ResultRow(
            name="N20",
            what=f"live: {options.requests} requests at once come to a cluster without a replica",
            before="not possible",
            demanded=f"each first answer within the time of a start + {SLACK_S:g} s; none lost",
            after=(
                f"first answer after {median(first):.1f} s (longest {max(first):.1f} s), a start "
                f"takes {starts:.1f} s; {lost} of {asked} lost"
            ),
            interval=f"{len(rounds)} rounds, {min(first):.1f} to {max(first):.1f} s",
            met=lost == 0 and max(first) <= starts + SLACK_S,
        )
    ]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.live.zero", description=__doc__
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8, help="at once, half of them streams")
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[ZeroRound]:
    """Start a cluster, let it fall to zero and come back again and again, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-zero-"))
    with quiet():
        rig = EditedCluster.start(folder, options.base, _policy(1))
        try:
            return [_round(rig, options.requests) for _ in range(options.rounds)]
        finally:
            rig.cluster.stop()


def _policy(least: int) -> dict[str, Any]:
    patience = {} if least else {"zero_after": 3}
    return {"replicas": {"min": least, "max": 1, "hold": 120, **patience}}


def _round(rig: EditedCluster, requests: int) -> ZeroRound:
    _fall(rig)
    asked = rig.edit(_policy(1))
    start_s = rig.wait("a start", lambda: rig.cluster.ready_replicas() == 1) - asked
    _fall(rig)
    began = time.perf_counter()
    ends = asyncio.run(_ask(rig, requests))
    found = [end for end in ends if end is not None]
    return ZeroRound(
        start_s,
        min((first for first, _ in found), default=float("inf")) - began,
        max((last for _, last in found), default=float("inf")) - began,
        len(ends) - len(found),
    )


def _fall(rig: EditedCluster) -> None:
    rig.edit(_policy(1))
    time.sleep(NOTICE_S)
    rig.edit(_policy(0))
    zero = {"target": 0, "running": 0, "starting": 0}
    rig.wait("no replica", lambda: zero.items() <= rig.serve().items())
    rig.wait("none reached", lambda: rig.cluster.ready_replicas() == 0)


async def _ask(rig: EditedCluster, requests: int) -> list[tuple[float, float] | None]:
    """Ask at once; returns when each answer's first and last bytes came, None for lost ones."""
    model = short_name(rig.cluster.config.model)
    async with rig.cluster.client(TENANT) as client:
        return await asyncio.gather(*(_answer(client, model, number) for number in range(requests)))


async def _answer(
    client: httpx2.AsyncClient, model: str, number: int
) -> tuple[float, float] | None:
    stream = number % 2 == 1
    body = {
        "model": model,
        "prompt": [100 + number] * 8,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    first, text = 0.0, b""
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for part in answer.aiter_bytes():
            first = first or time.perf_counter()
            text += part
    whole = b"data: [DONE]" in text if stream else b'"finish_reason":"length"' in text
    return (first, time.perf_counter()) if answer.status_code == 200 and whole else None


if __name__ == "__main__":
    for row in rows(None):
        print(row)
