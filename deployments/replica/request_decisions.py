"""Decisions of a replica's requests: read, checked, and written back when prefill completes one."""

import structlog

from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import TenantId
from cluster.errors import DecisionRejected, StoreUnavailable
from cluster.tasks import Tasks
from deployments.replica.request_counters import RequestCounters
from router_service.reader import DecisionReader

log = structlog.get_logger(__name__)


class RequestDecisions:
    """Reads decisions for one replica, and counts them."""

    def __init__(self, reader: DecisionReader, counters: RequestCounters) -> None:
        self._reader = reader
        self._counters = counters
        self._writing = Tasks()

    async def read(self, tenant: TenantId, carried: bytes) -> RoutingDecision:
        """Return the checked decision whose signed copy came for a request of ``tenant``.

        Raises:
            DecisionRejected: it is not this cluster's, long expired, or another tenant's.
        """
        try:
            stored = await self._reader.read(carried)
        except DecisionRejected:
            self._counters.decisions_rejected += 1
            raise
        if stored.decision.tenant != tenant:
            self._counters.decisions_rejected += 1
            raise DecisionRejected("the decision belongs to another tenant")
        self._counters.count_decision(stored.origin)
        return stored.decision

    def write_back(self, completed: RoutingDecision) -> None:
        """Write a decision that prefill has completed, so that nothing decides it again.

        Retries, repeats and other replicas read it. The write runs in the background.
        """
        self._writing.start(self._write(completed))

    async def _write(self, completed: RoutingDecision) -> None:
        try:
            await self._reader.complete(completed)
            self._counters.decisions_completed += 1
        except StoreUnavailable as error:
            self._counters.decisions_not_written += 1
            log.warning("replica.decision_not_written", id=completed.id, reason=error.message)
