"""Sends a simulated front's reports to the controller, at the right times."""

from collections.abc import Callable
from typing import Protocol

from cluster.domain.ids import ReplicaId
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import FrontReporter
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
    ) -> None:
        self._process = process
        self._controller = controller
        self._held = held
        self._follow = follow
        self._interval_s = interval_s
        self.demand = DemandCounters(now=process.clock.monotonic())
        self._reporter = FrontReporter(front_id, self.demand, picks)
        self._under_way = False
        self._turn = 0  # names the report whose time has yet to come
        self.send()

    def note_dead(self, replica_id: ReplicaId) -> None:
        """Tell of a replica whose link ended, now."""
        self._reporter.note_dead(replica_id)
        self.send()

    def send(self) -> None:
        """Report now, unless a report is under way."""
        if self._under_way:
            return
        self._under_way = True
        report = self._reporter.compose(self._held(), self._process.clock.monotonic())
        self._controller.report(report, self._hear)
        self._turn += 1
        self._process.after(self._interval_s, self._send_next, self._turn)

    def _send_next(self, turn: int) -> None:
        if turn == self._turn:
            self._under_way = False  # one without an answer by now is lost
            self.send()

    def _hear(self, orders: FrontOrders) -> None:
        self._under_way = False
        if self._reporter.is_replaced(orders):
            return
        needs_all = self._reporter.take(orders)
        self._follow(orders)
        if needs_all:
            self.send()
