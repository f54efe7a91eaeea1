"""Watches where adapters are ready on a live cluster, to time what a lost replica alone had."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from cluster.domain.adapter import AdapterState
from cluster.tenancy.quickstart import ADMIN_TENANT
from testing.local_cluster import LocalCluster

LOOK_S = 0.2
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ReadyLook:
    """The adapters that each replica could serve at one moment, as a front knew it."""

    at: float  # wall clock, seconds
    ready: Mapping[str, frozenset[str]]  # digests by replica


@dataclass(frozen=True, slots=True)
class CopiesLost:
    """Says how long adapters were without a copy that serves; the longest, in seconds."""

    copies: int  # that the lost replica alone had ready
    told_s: float  # until the controller ordered it elsewhere; NaN: never, or no copy was lost
    serving_s: float  # until it was ready there

    @property
    def words(self) -> str:
        """Return both times for people."""
        return f"told after {self.told_s:.2f} s, ready after {self.serving_s:.2f} s"


def look(cluster: LocalCluster) -> ReadyLook:
    """Ask a front once.

    Raises:
        httpx2.HTTPError: it does not answer.
    """
    answer = cluster.get("/admin/v1/residency", ADMIN_TENANT, TIMEOUT_S)
    ready = AdapterState.READY.value
    return ReadyLook(
        time.time(),
        {
            replica["replica_id"]: frozenset(
                held["digest"] for held in replica["resident"] if held["state"] == ready
            )
            for replica in answer.json()["replicas"]
        },
    )


@asynccontextmanager
async def watching(cluster: LocalCluster) -> AsyncIterator[list[ReadyLook]]:
    """Look again and again while the block runs."""
    looks: list[ReadyLook] = []

    async def go_on() -> None:
        while True:
            with suppress(httpx2.HTTPError, KeyError, ValueError):  # the next one tells
                looks.append(await asyncio.to_thread(look, cluster))
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(go_on())
    try:
        yield looks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def copies_lost(
    lost: str,
    at: float,
    before: ReadyLook,
    looks: Sequence[ReadyLook],
    history: Sequence[Mapping[str, Any]],
) -> CopiesLost:
    """Compute how soon others had what a replica alone had.

    A request that brings an adapter in elsewhere before the controller says so counts as told.

    Args:
        lost: the replica.
        at: when it was lost, by the wall clock.
        before: the last look before that.
        looks: those after it.
        history: the controller's, with prefetches that it ordered.
    """
    others = {d for replica, held in before.ready.items() if replica != lost for d in held}
    sole = before.ready.get(lost, frozenset()) - others
    told, serving = [], []
    for digest in sole:
        ready = [
            seen.at
            for seen in looks
            if seen.at >= at
            and any(digest in held for replica, held in seen.ready.items() if replica != lost)
        ]
        orders = [
            line["at"]
            for line in history
            if line["kind"] == "prefetch"
            and line["digest"] == digest
            and line["replica_id"] != lost
            and line["at"] >= at
        ]
        serving.append(min(ready, default=math.nan) - at)
        told.append(min([*orders, *ready], default=math.nan) - at)
    return CopiesLost(len(sole), _longest(told), _longest(serving))


def _longest(seconds: Sequence[float]) -> float:
    return max(seconds) if seconds and not any(map(math.isnan, seconds)) else math.nan
