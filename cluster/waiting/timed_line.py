"""Lets any number of requests wait in one line, each for its own time."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.placement.picking.waiting_line import WaitingLine
from cluster.tenancy.shares import DEFAULT_WEIGHT

Waiter = asyncio.Future[bool]


class TimedLine:
    """Keeps waiters in the order of ``WaitingLine``; one owner, on one event loop.

    One task looks at the time for all of them, and only at those whose time is over: a timer for
    each would keep the loop from its work.

    Args:
        clock: of the waits' ends.
        interval_s: seconds between two looks.
        on_look: called with each look.
        on_unused: called if a waiter was released and is cancelled before it runs.
    """

    def __init__(
        self,
        clock: Clock,
        interval_s: float,
        *,
        on_look: Callable[[], None] = lambda: None,
        on_unused: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._on_look = on_look
        self._on_unused = on_unused
        self._line = WaitingLine[Waiter]()
        self._ends: list[tuple[float, int, TenantId | None, Waiter]] = []  # a heap
        self._serials = itertools.count()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._line)

    def has_waiters(self, tenant: TenantId) -> bool:
        """Return whether requests of a tenant wait."""
        return self._line.has_waiters(tenant)

    async def wait(
        self,
        tenant: TenantId | None,
        ends: float,
        *,
        weight: float = DEFAULT_WEIGHT,
        again: bool = False,
    ) -> bool:
        """Wait to be released; return False if the time is over before.

        Args:
            tenant: whose turn it is to be.
            ends: end of the wait, monotonic seconds.
            weight: the tenant's from now on.
            again: it was released just now and could not go on: it is the first again.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if again:
            self._line.put_back(waiter)
        else:
            self._line.append(tenant, waiter, weight)
        heapq.heappush(self._ends, (ends, next(self._serials), tenant, waiter))
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self._on_unused()
            raise
        finally:
            self._line.discard(tenant, waiter)
            self._forget_ended()

    def release_first(self) -> bool:
        """Release the waiter whose turn it is; return whether there was one."""
        while self._line:
            waiter = self._line.pop()
            if not waiter.done():
                waiter.set_result(True)
                return True
        return False

    def release_all(self) -> None:
        """Release all; they run in the order of their turns."""
        while self.release_first():
            continue

    def close(self) -> None:
        """Look at the time no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self._line:
            now = self._clock.monotonic()
            while self._ends and self._ends[0][0] <= now:
                _, _, tenant, waiter = heapq.heappop(self._ends)
                self._line.discard(tenant, waiter)
                if not waiter.done():
                    waiter.set_result(False)
            self._on_look()
            first = self._ends[0][0] if self._ends else now
            await asyncio.sleep(max(0.0, min(first - now, self._interval_s)))
        self._task = None

    def _forget_ended(self) -> None:
        """Drop those that wait no more once most are."""
        if len(self._ends) > 2 * len(self._line) + 64:
            self._ends = [item for item in self._ends if not item[3].done()]
            heapq.heapify(self._ends)
