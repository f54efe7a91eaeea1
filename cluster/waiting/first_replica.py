"""Lets any number of requests wait for the first replica at the cost of one."""

from collections.abc import Callable

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.waiting.timed_line import TimedLine


class FirstReplica:
    """Keeps those who wait until a replica can be reached; one owner, on one event loop.

    Args:
        is_ready: returns whether a replica can be reached.
        clock: of the waits' ends.
        interval_s: seconds between two looks.
    """

    def __init__(self, is_ready: Callable[[], bool], clock: Clock, interval_s: float) -> None:
        self._is_ready = is_ready
        self._clock = clock
        self._line = TimedLine(clock, interval_s, on_look=self.wake)

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._line)

    async def wait(self, timeout_s: float, tenant: TenantId | None = None) -> bool:
        """Wait until a replica can be reached; return whether one can.

        Requests of a tenant continue in order of arrival, and tenants in turn.
        """
        ends = self._clock.monotonic() + timeout_s
        while not self._is_ready():
            if ends <= self._clock.monotonic():
                return False
            await self._line.wait(tenant, ends)
        return True

    def wake(self) -> None:
        """Release all if a replica can be reached; call it when one may have become so."""
        if self._line and self._is_ready():
            self._line.release_all()

    def close(self) -> None:
        """Look at the time no more."""
        self._line.close()
