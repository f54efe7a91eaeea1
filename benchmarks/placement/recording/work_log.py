"""Readings of the replicas' totals of work while a load is recorded, one line each."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.errors import ConfigError

WORK = "work.jsonl"
EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkReading:
    """The totals that a replica had reported by one moment."""

    at: float  # seconds since the load began
    replica: ReplicaId
    work: WorkTotals


async def log_work(client: httpx2.AsyncClient, began: float, path: Path) -> None:
    """Write a reading of each replica each second, until cancelled.

    Args:
        client: an administrator's.
        began: monotonic seconds when the load began.
    """
    with path.open("w", encoding="utf-8") as file:
        while True:
            with contextlib.suppress(httpx2.HTTPError):  # the next one says as much
                answer = await client.get("/admin/v1/status")
                at = round(time.monotonic() - began, 3)
                for found in answer.json()["replicas"] if answer.status_code == 200 else ():
                    line = {"at": at, "replica": found["replica_id"], "work": found["work"]}
                    file.write(json.dumps(line) + "\n")
                file.flush()
            await asyncio.sleep(EVERY_S)


def read_work(folder: Path) -> list[WorkReading]:
    """Return the readings of a recording, by time.

    Raises:
        ConfigError: it has none, or a line is not a reading.
    """
    path = folder / WORK
    try:
        return list(_readings(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: has no readings of the replicas' work ({error!r}); record again"
        ) from error


def busy_shares(readings: list[WorkReading]) -> dict[ReplicaId, float]:
    """Return the share of the time that each replica spent in steps."""
    first: dict[ReplicaId, WorkReading] = {}
    last: dict[ReplicaId, WorkReading] = {}
    for reading in readings:
        first.setdefault(reading.replica, reading)
        last[reading.replica] = reading
    return {
        replica: last[replica].work.steps.since(begin.work.steps).seconds
        / (last[replica].at - begin.at)
        for replica, begin in first.items()
        if last[replica].at > begin.at
    }


def _readings(text: str) -> Iterator[WorkReading]:
    for line in text.splitlines():
        found: dict[str, Any] = json.loads(line)
        work = found["work"]
        yield WorkReading(
            float(found["at"]),
            ReplicaId(found["replica"]),
            WorkTotals(
                StepTotals(**work["steps"]),
                LoadTotals(**work["host_loads"]),
                LoadTotals(**work["disk_loads"]),
            ),
        )
