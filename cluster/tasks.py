"""Background tasks with one owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Keeps running tasks alive until they end, as asyncio itself does not.

    A task handles its own errors: ``cancel`` and ``wait`` do not report them. One owner, on one
    event loop.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Return the number of tasks that have not ended."""
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run ``work`` as a task."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def wait(self, timeout_s: float) -> None:
        """Wait until all tasks have ended, at most ``timeout_s`` seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
