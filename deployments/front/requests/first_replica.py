"""Lets any number of requests wait for the first replica at the cost of one."""

import asyncio
from collections.abc import Callable

from cluster.clock import Clock


class FirstReplica:
    """Keeps those who wait until a replica can be reached; one owner, on one event loop.

    One task looks at the time for all of them: a timer for each would keep the loop from its work.

    Args:
        is_ready: returns whether a replica can be reached.
        clock: of the waits' ends.
        interval_s: seconds between two looks.
    """

    def __init__(self, is_ready: Callable[[], bool], clock: Clock, interval_s: float) -> None:
        self._is_ready = is_ready
        self._clock = clock
        self._interval_s = interval_s
        self._waits: dict[asyncio.Future[None], float] = {}  # with their ends, monotonic seconds
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waits)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until a replica can be reached; return whether one can."""
        ends = self._clock.monotonic() + timeout_s
        while not self._is_ready():
            if ends <= self._clock.monotonic():
                return False
            waiter = asyncio.get_running_loop().create_future()
            self._waits[waiter] = ends
            if self._task is None:
                self._task = asyncio.create_task(self._look())
            try:
                await waiter
            finally:
                self._waits.pop(waiter, None)
        return True

    def wake(self) -> None:
        """Release all if a replica can be reached; call it when one may have become so."""
        if self._waits and self._is_ready():
            self._release(list(self._waits))

    def close(self) -> None:
        """Look at the time no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self._waits:
            now = self._clock.monotonic()
            self._release([waiter for waiter, ends in self._waits.items() if ends <= now])
            self.wake()
            first = min(self._waits.values(), default=now)
            await asyncio.sleep(max(0.0, min(first - now, self._interval_s)))
        self._task = None

    def _release(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            del self._waits[waiter]
            if not waiter.done():
                waiter.set_result(None)
