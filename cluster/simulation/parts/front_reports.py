"""Sends a simulated front's reports to the controller, at the right times."""

from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import REPORT_PAUSE_S, FrontReporter
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.simulation.virtual.virtual_process import VirtualProcess


class ControllerCalls(Protocol):
    """The controller, as fronts call it. Answers take as long as calls do."""

    def report(self, report: FrontReport, answer: Callable[[FrontOrders], None]) -> None:
        """Hand in a report; ``answer`` is called in the front, or never."""
        ...


class FrontReports:
    """Reports at even intervals, and at once where asked; one report is under way at a time.

    Args:
        held: counts the requests that wait for a replica.
        follow: takes in the controller's answers.
        own_weights: of tenants, by their file.
    """

    def __init__(
        self,
        front_id: FrontId,
        process: VirtualProcess,
        controller: ControllerCalls,
        picks: RecentPicks,
        held: Callable[[], int],
        follow: Callable[[FrontOrders], None],
        interval_s: float,
        own_weights: Mapping[TenantId, float],
    ) -> None:
        self._process = process
        self._controller = controller
        self._held = held
        self._follow = follow
        self._interval_s = interval_s
        self._own_weights = own_weights
        self.demand = DemandCounters(now=process.clock.monotonic())
        self._reporter = FrontReporter(front_id, self.demand, picks)
        self._under_way = False
        self._due = False  # another report is wanted after the one under way
        self._turn = 0  # names the report whose time has yet to come
        self.send()

    def note_dead(self, replica_id: ReplicaId) -> None:
        """Tell of a replica whose link ended, now."""
        self._reporter.note_dead(replica_id)
        self.send()

    def send(self) -> None:
        """Report at once; a report that is under way is followed by another."""
        if self._under_way:
            self._due = True
            return
        self._under_way, self._due = True, False
        now = self._process.clock.monotonic()
        report = self._reporter.compose(self._held(), now, self._own_weights)
        self._controller.report(report, self._hear)
        self._turn += 1
        self._process.after(self._interval_s, self._send_next, self._turn)

    def _send_next(self, turn: int) -> None:
        if turn == self._turn:
            self._under_way = False  # one without an answer by now is lost
            self.send()

    def _hear(self, orders: FrontOrders) -> None:
        if not self._reporter.is_replaced(orders):
            self._due |= self._reporter.take(orders)
            self._follow(orders)
        self._process.after(REPORT_PAUSE_S, self._go_on, self._turn)

    def _go_on(self, turn: int) -> None:
        """Report again, if that was wanted meanwhile."""
        if turn == self._turn:
            self._under_way = False
            if self._due:
                self.send()
