"""Composes a front's reports, and keeps what the controller has not heard yet."""

from collections.abc import Mapping

from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.tenancy.shares import NO_WEIGHTS

REPORT_PAUSE_S = 0.05
"""Between a report's answer and the next report, however many requests call for one."""


class FrontReporter:
    """Makes reports of a front's counts; one owner. Times are monotonic seconds of the front.

    A report or an answer that is lost costs nothing: a later report has all that was counted.

    Args:
        front: this life of the front.
    """

    def __init__(self, front: FrontId, counters: DemandCounters, picks: RecentPicks) -> None:
        self._front = front
        self._counters = counters
        self._picks = picks
        self._sequence = 0
        self._acknowledged = 0
        self._epoch: int | None = None  # of the controller that answered last
        self._highest = 0  # of all that answered
        self._policy_version = 0  # of the last orders
        self._dead: dict[ReplicaId, int] = {}  # with the first report that names it

    def note_dead(self, replica_id: ReplicaId) -> None:
        """Name a replica whose link ended in each report until one is acknowledged."""
        self._dead[replica_id] = self._sequence + 1

    def compose(
        self, held: int, now: float, own_weights: Mapping[TenantId, float] = NO_WEIGHTS
    ) -> FrontReport:
        """Return the next report.

        Args:
            held: requests that want a first replica.
            own_weights: of tenants, by their file.
        """
        self._sequence += 1
        report = FrontReport(
            self._front,
            self._sequence,
            demand=self._counters.changed_since(self._acknowledged, now),
            dead=tuple(self._dead),
            held=held,
            predicted_ttft=self._picks.predicted_ttft(now),
            cold=self._picks.cold,
            picked=self._picks.picked,
            epoch=self._epoch or 0,
            policy_version=self._policy_version,
            own_weights=own_weights,
        )
        self._counters.compose(self._sequence, now)
        return report

    def is_replaced(self, orders: FrontOrders) -> bool:
        """Report whether a controller answered that another one has replaced since."""
        return 0 < orders.epoch < self._highest

    def take(self, orders: FrontOrders) -> bool:
        """Take in an answer; returns whether its controller needs all totals again, at once."""
        heard = min(orders.acknowledged, self._sequence)
        self._dead = {replica: first for replica, first in self._dead.items() if first > heard}
        before, self._epoch = self._epoch, orders.epoch
        self._highest = max(self._highest, orders.epoch)
        self._policy_version = orders.policy_version
        if before not in (None, orders.epoch):
            # It knows nothing of what the one before it acknowledged.
            self._acknowledged = 0
            self._counters.forget_acknowledgements()
            return True
        self._acknowledged = max(self._acknowledged, heard)
        return False
