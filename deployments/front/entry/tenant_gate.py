"""Shares few places fairly among tenants, for work that takes memory or a core."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.domain.ids import TenantId
from cluster.errors import Overloaded

Waiting = deque[asyncio.Future[None]]


class TenantGate:
    """Grants places on one event loop.

    Args:
        places: in use at once.
        per_tenant: in use at once by one tenant.
        max_waiting: of one tenant; more are refused.
        wait_s: longest wait for a place, seconds.
    """

    def __init__(self, places: int, per_tenant: int, max_waiting: int, wait_s: float) -> None:
        self._free = places
        self._per_tenant = per_tenant
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._used: Counter[TenantId] = Counter()
        self._waiting: OrderedDict[TenantId, Waiting] = OrderedDict()  # whose turn is first

    @asynccontextmanager
    async def place(self, tenant: TenantId) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            Overloaded: too many of the tenant's requests wait, or none came free in time.
        """
        await self.acquire(tenant)
        try:
            yield
        finally:
            self.release(tenant)

    async def acquire(self, tenant: TenantId) -> None:
        """Take a place, which ``release`` gives back. Raises as ``place``."""
        if self._free and self._used[tenant] < self._per_tenant:
            self._take(tenant)
            return
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= self._max_waiting:
            raise Overloaded(f"{len(queue)} large requests of this tenant wait already")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            async with asyncio.timeout(self._wait_s):
                await granted
        except BaseException as error:
            self._give_up(tenant, granted)
            if isinstance(error, TimeoutError):
                raise Overloaded("the front is busy with other large requests") from error
            raise

    def release(self, tenant: TenantId) -> None:
        """Give a place back."""
        self._free += 1
        self._used[tenant] -= 1
        if not self._used[tenant]:
            del self._used[tenant]
        self._grant()

    @property
    def idle(self) -> bool:
        """Return whether no request holds or awaits a place."""
        return not self._used and not self._waiting

    def _take(self, tenant: TenantId) -> None:
        self._free -= 1
        self._used[tenant] += 1

    def _grant(self) -> None:
        while self._free:
            ready = (t for t in self._waiting if self._used[t] < self._per_tenant)
            tenant = next(ready, None)
            if tenant is None:
                return
            queue = self._waiting[tenant]
            granted = queue.popleft()
            self._waiting.move_to_end(tenant)
            if not queue:
                del self._waiting[tenant]
            if not granted.done():  # else its waiter is giving up
                granted.set_result(None)
                self._take(tenant)

    def _give_up(self, tenant: TenantId, granted: asyncio.Future[None]) -> None:
        if granted.done() and not granted.cancelled():
            self.release(tenant)
            return
        queue = self._waiting.get(tenant)
        if queue is not None and granted in queue:
            queue.remove(granted)
            if not queue:
                del self._waiting[tenant]
