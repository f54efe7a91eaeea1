"""A front in a process of its own: the deployment's class, without Ray around it."""

import asyncio
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import uvloop
from ray.serve.handle import DeploymentHandle

from benchmarks.relay.replica import snapshot_of
from deployments.front.front import Front


class _OneReplica:
    """Stands for Serve's handle: every request goes to the one scripted replica."""

    def __init__(self, address: str) -> None:
        self._address = address

    def broadcast(self, method: str, *_: Any) -> "_OneReplica":
        if method != "describe":
            raise NotImplementedError(method)
        return self

    async def _fetch_replica_results_async(self) -> list["_OneReplica"]:
        return [self]

    async def get_async(self) -> Any:
        return snapshot_of(self._address)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,  # which Ray gives its actors
    "asyncio": asyncio.new_event_loop,
}


def serve(commands: Connection, args: dict[str, Any], replica: str, log: Path, loop: str) -> None:
    """Run a front until the other side says a word.

    Args:
        args: an ``AppConfig`` in JSON form.
        replica: ``host:port`` of the replica's link server.
        log: where lines of the log go.
        loop: one of ``LOOPS``.
    """
    os.environ["BRAID_LOG_FILE"] = str(log)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(_serve(commands, args, replica))


async def _serve(commands: Connection, args: dict[str, Any], replica: str) -> None:
    handle = cast("DeploymentHandle[Any]", _OneReplica(replica))
    front = Front.__new__(Front)
    await front.__init__(args, handle, handle)  # type: ignore[misc] # as Serve awaits it
    commands.send("ready")
    await asyncio.to_thread(commands.recv)
    await front.__del__()
