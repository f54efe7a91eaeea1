"""Shares one execution among concurrent calls for one key."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs at most one task per key at a time; later callers wait for the one in flight.

    The task is its own: a caller that is cancelled leaves it running for the others.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    async def run(self, key: Hashable, start: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return the result of ``start()`` for this key, and whether this call began it.

        Raises what ``start()`` raises, to every caller that waits.
        """
        task = self._tasks.get(key)
        led = task is None
        if task is None:
            task = asyncio.ensure_future(_as_coroutine(start))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._discard(key, done))
        return await asyncio.shield(task), led

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def _discard(self, key: Hashable, done: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # marks it as seen where every caller has gone


async def _as_coroutine(start: Callable[[], Awaitable[T]]) -> T:
    return await start()
