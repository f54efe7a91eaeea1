"""Tells the controller what a front sees, once a second, and hands on its orders."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from cluster.clock import Clock
from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import REPORT_PAUSE_S, FrontReporter
from deployments.front.requests.front_demand import FrontDemand

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0

Send = Callable[[FrontReport], Awaitable[FrontOrders]]


class Exchange:
    """Reports to the controller and follows its orders; one owner, on one event loop.

    Without a controller the last orders hold, and a later report has all that was counted.

    Args:
        front: this life of this front.
        send: hands a report to the controller; any exception means that it did not answer.
        demand: counted by this front.
        first: orders until the controller has given some.
        held: returns how many requests want a first replica; called once for each report.
        own_weights: returns the tenants' weights that their file names.
    """

    def __init__(
        self,
        front: FrontId,
        send: Send,
        demand: FrontDemand,
        clock: Clock,
        *,
        first: FrontOrders,
        held: Callable[[], int] = lambda: 0,
        own_weights: Callable[[], Mapping[TenantId, float]] = dict,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.orders = first
        self.error: str | None = None
        """Says why the controller did not answer the last report; None if it did."""
        self._send = send
        self._clock = clock
        self._held = held
        self._own_weights = own_weights
        self._interval_s = interval_s
        self._reporter = FrontReporter(front, demand.counters, demand.picks)
        self._followers: list[Callable[[FrontOrders], None]] = [demand.follow]
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def on_orders(self, follow: Callable[[FrontOrders], None]) -> None:
        """Call ``follow`` with the present orders, and with all later ones."""
        self._followers.append(follow)
        follow(self.orders)

    def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop reporting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def now(self) -> None:
        """Report at once; a report that is under way is followed by another."""
        self._due.set()

    def note_dead(self, replica_id: ReplicaId) -> None:
        """Tell the controller at once that the link to a replica ended."""
        self._reporter.note_dead(replica_id)
        self.now()

    async def report(self) -> None:
        """Send one report and follow the answer, if one comes."""
        report = self._reporter.compose(self._held(), self._clock.monotonic(), self._own_weights())
        try:
            orders = await self._send(report)
        except Exception as error:  # Ray raises many kinds; the next report has it all
            if self.error is None:  # one line for a controller that stays away
                log.warning("front.controller_silent", error=repr(error))
            self.error = repr(error)
            return
        self.error = None
        if self._reporter.is_replaced(orders):
            return
        orders = orders.with_policy(self.orders)
        if self._reporter.take(orders):
            self.now()
        self.orders = orders
        for follow in self._followers:
            follow(orders)

    async def _run(self) -> None:
        while True:
            self._due.clear()
            try:
                await self.report()
            except Exception as error:  # a failure of one report must not end the loop
                log.error("front.exchange_failed", exc_info=error)
            await asyncio.sleep(REPORT_PAUSE_S)
            try:
                await asyncio.wait_for(self._due.wait(), self._interval_s)
            except TimeoutError:
                continue
