"""Runs in threads what would block the event loop: parsing and tokenising large requests.

Most of it holds the interpreter's lock, so a thread alone does not keep it from delaying others. A
tenant therefore rests after its work: it never has more than a third of the time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.domain.ids import TenantId
from deployments.front.entry.tenant_gate import TenantGate

T = TypeVar("T")

THREADS = 2
PLACES = 16
"""More than threads, for tenants that rest; what waits for a thread then waits a little."""
PER_TENANT = 1
REST = 2.0
"""Times the work's duration, before the tenant's next work."""
MAX_WAITING = 64
WAIT_S = 30.0


class HeavyWork:
    """Runs functions in a few threads of its own, tenants in turn."""

    def __init__(self) -> None:
        self._gate = TenantGate(PLACES, PER_TENANT, MAX_WAITING, WAIT_S)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="heavy")

    async def run(self, tenant: TenantId, work: Callable[[], T], *, rest_s: float = 0.0) -> T:
        """Run ``work`` in a thread and return its result.

        A caller that is cancelled leaves at once; its place is free when the thread is, and the
        tenant has rested (for ``rest_s`` at least).

        Raises:
            Overloaded: too much of the tenant's work waits, or no thread was free in time.
        """
        await self._gate.acquire(tenant)
        loop = asyncio.get_running_loop()
        spent = 0.0

        def timed() -> T:
            nonlocal spent
            began = loop.time()
            try:
                return work()
            finally:
                spent = loop.time() - began

        try:
            future = loop.run_in_executor(self._threads, timed)
        except BaseException:
            self._gate.release(tenant)
            raise

        def rest(_: asyncio.Future[T]) -> None:
            loop.call_later(max(rest_s, REST * spent), self._gate.release, tenant)

        future.add_done_callback(rest)
        return await asyncio.shield(future)

    @property
    def idle(self) -> bool:
        """Tell that nothing runs or waits."""
        return self._gate.idle

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
