"""A simulated front's exchange with the controller: what it tells, and when."""

from collections.abc import Callable
from typing import Protocol

from cluster.domain.ids import ReplicaId
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.simulation.parts.front_rules import FrontPicks
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
        picks: FrontPicks,
        held: Callable[[], int],
        follow: Callable[[FrontOrders], None],
        interval_s: float,
    ) -> None:
        self._front_id = front_id
        self._process = process
        self._controller = controller
        self._picks = picks
        self._held = held
        self._follow = follow
        self._interval_s = interval_s
        self.demand = DemandCounters(now=process.clock.monotonic())
        self._sequence = 0
        self._acknowledged = 0
        self._epoch = 0
        self._dead: dict[ReplicaId, int] = {}  # with the first report that tells of it
        self._under_way = False
        self._turn = 0  # names the report whose time has yet to come
        self.send()

    def note_dead(self, replica_id: ReplicaId) -> None:
        """Tell of a replica whose link ended, now."""
        self._dead[replica_id] = self._sequence + 1
        self.send()

    def send(self) -> None:
        """Report now, unless a report is under way."""
        if self._under_way:
            return
        self._under_way = True
        self._sequence += 1
        now = self._process.clock.monotonic()
        report = FrontReport(
            front=self._front_id,
            sequence=self._sequence,
            demand=self.demand.changed_since(self._acknowledged, now),
            dead=tuple(self._dead),
            held=self._held(),
            predicted_ttft=self._picks.take_predictions(),
            cold=self._picks.cold,
            picked=self._picks.picked,
        )
        self.demand.compose(self._sequence, now)
        self._controller.report(report, self._hear)
        self._turn += 1
        self._process.after(self._interval_s, self._send_next, self._turn)

    def _send_next(self, turn: int) -> None:
        if turn == self._turn:
            self._under_way = False  # one without an answer by now is lost
            self.send()

    def _hear(self, orders: FrontOrders) -> None:
        self._under_way = False
        self._acknowledged = orders.acknowledged
        self._dead = {r: first for r, first in self._dead.items() if first > self._acknowledged}
        if orders.epoch != self._epoch:
            if self._epoch:
                self._acknowledged = 0
                self.demand.forget_acknowledgements()
            self._epoch = orders.epoch
        self._follow(orders)
