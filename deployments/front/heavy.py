"""Threads for what would block the event loop: parsing and tokenising large requests."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.domain.ids import TenantId
from deployments.front.tenant_gate import TenantGate

T = TypeVar("T")

THREADS = 2
PER_TENANT = 1
"""So one tenant never has all threads."""
MAX_WAITING = 64
WAIT_S = 30.0


class HeavyWork:
    """Runs functions in a few threads of its own, tenants in turn."""

    def __init__(self) -> None:
        self._gate = TenantGate(THREADS, PER_TENANT, MAX_WAITING, WAIT_S)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="heavy")

    async def run(self, tenant: TenantId, work: Callable[[], T]) -> T:
        """The result of ``work``, computed in a thread.

        A caller that is cancelled leaves at once; its place is free when the thread is.

        Raises:
            Overloaded: too much of the tenant's work waits, or no thread was free in time.
        """
        await self._gate.acquire(tenant)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except BaseException:
            self._gate.release(tenant)
            raise
        future.add_done_callback(lambda _: self._gate.release(tenant))
        return await asyncio.shield(future)

    @property
    def idle(self) -> bool:
        """Tell that nothing runs or waits."""
        return self._gate.idle

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
