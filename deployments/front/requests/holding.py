"""Holds requests while no replica can be reached, and has the first one started."""

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from cluster.errors import Starting
from cluster.placement.exchange import FrontOrders

WaitForReplica = Callable[[float], Awaitable[None]]
"""Returns once a replica can be reached; the argument is ``Holding.wait_for_replica``'s."""


async def at_once(patience_s: float) -> None:
    """Wait for nothing: the replicas are always there."""


class Reachable(Protocol):
    """Knows whether a replica can be reached."""

    @property
    def ready(self) -> bool: ...

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until a replica can be reached; return whether one can."""
        ...


class Holding:
    """Keeps requests that came while no replica could be reached.

    Args:
        replicas: of this front.
        orders: the controller's latest orders.
        call_controller: reports to the controller at once; harmless when called again.
    """

    def __init__(
        self,
        replicas: Reachable,
        orders: Callable[[], FrontOrders],
        call_controller: Callable[[], None],
    ) -> None:
        self._replicas = replicas
        self._orders = orders
        self._call_controller = call_controller
        self._held = 0

    @property
    def held(self) -> int:
        """Return the number of sequences that wait now."""
        return self._held

    @property
    def serving(self) -> bool:
        """Return whether requests may come: a replica can be reached, or need not be there."""
        return self._replicas.ready or self._orders().zero

    async def wait_for_replica(self, patience_s: float = math.inf) -> None:
        """Return once a replica can be reached, at once where one is.

        Args:
            patience_s: seconds that the caller can wait at most.

        Raises:
            Starting: the caller cannot wait as long as a start takes, or none came in time.
        """
        if self._replicas.ready:
            return
        self._call_controller()
        orders = self._orders()
        if patience_s < orders.retry_after_s:
            raise _starting(
                f"a replica is ready in about {orders.retry_after_s:.0f} s, and this request "
                f"waits for at most {patience_s:.0f} s",
                orders,
            )
        self._held += 1
        try:
            found = await self._replicas.wait_ready(min(patience_s, orders.hold_s))
        finally:
            self._held -= 1
        if not found:
            raise _starting("no replica could be reached in time", self._orders())


def _starting(why: str, orders: FrontOrders) -> Starting:
    retry_after_s = max(1, math.ceil(orders.retry_after_s))
    return Starting(f"{why}; try again in {retry_after_s} s", retry_after_s=retry_after_s)
