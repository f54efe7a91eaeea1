"""Holds requests while no replica can be reached, and has the first one started."""

import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from cluster.domain.ids import TenantId
from cluster.errors import Starting
from cluster.placement.exchange import FrontOrders
from cluster.tenancy.waiting_places import WaitingPlace

WaitForReplica = Callable[[WaitingPlace, float], Awaitable[None]]
"""Returns once a replica can be reached; the arguments are ``Holding.wait_for_replica``'s."""


async def at_once(place: WaitingPlace, patience_s: float) -> None:
    """Wait for nothing: the replicas are always there."""


class Reachable(Protocol):
    """Knows whether a replica can be reached."""

    @property
    def ready(self) -> bool: ...

    async def wait_ready(self, timeout_s: float, tenant: TenantId | None = None) -> bool:
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
        self._turned_away = 0  # since the last report

    def count_wishes(self) -> int:
        """Return the sequences that want a first replica.

        They are those that wait, and those that could not and came since the last call.
        """
        wishes, self._turned_away = self._held + self._turned_away, 0
        return wishes

    @property
    def serving(self) -> bool:
        """Return whether requests may come: a replica can be reached, or need not be there."""
        return self._replicas.ready or self._orders().zero

    async def wait_for_replica(
        self, place: WaitingPlace | None = None, patience_s: float = math.inf
    ) -> None:
        """Return once a replica can be reached, at once where one is.

        Args:
            place: of the tenant's sequence that waits; None waits for no tenant.
            patience_s: seconds that the caller can wait at most.

        Raises:
            Starting: the caller cannot wait as long as a start takes, or none came in time.
            Overloaded: too many sequences of the tenant wait already.
        """
        if self._replicas.ready:
            return
        self._call_controller()
        orders = self._orders()
        if patience_s < orders.retry_after_s:
            self._turned_away += 1
            raise _starting(
                f"a replica is ready in about {orders.retry_after_s:.0f} s, and this request "
                f"waits for at most {patience_s:.0f} s",
                orders,
            )
        if place is not None:
            place.take(orders.retry_after_s)
        self._held += 1
        try:
            found = await self._replicas.wait_ready(
                min(patience_s, orders.hold_s), None if place is None else place.tenant
            )
        finally:
            self._held -= 1
        if not found:
            raise _starting("no replica could be reached in time", self._orders())


def _starting(why: str, orders: FrontOrders) -> Starting:
    retry_after_s = max(1, math.ceil(orders.retry_after_s))
    return Starting(f"{why}; try again in {retry_after_s} s", retry_after_s=retry_after_s)
