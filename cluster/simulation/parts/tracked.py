"""One request of the trace on its way through a front."""

from dataclasses import dataclass, field

from cluster.domain.ids import ReplicaId, RequestId
from cluster.errors import IntegrityError
from cluster.placement.demand.demand import DemandKey
from cluster.simulation.result import IN_FLIGHT, ServedRequest, TierFound
from cluster.simulation.trace import TraceRequest
from cluster.waiting.failed_replicas import FailedReplicas

_NOWHERE = RequestId("")


@dataclass(slots=True, eq=False)
class Tracked:
    """All that is known of one request so far. Times are virtual seconds."""

    index: int  # in the trace
    asked: TraceRequest
    key: DemandKey
    deadline: float
    outcome: str = IN_FLIGHT
    replica: ReplicaId | None = None
    request_id: RequestId = _NOWHERE  # at that replica
    attempts: int = 0
    failed: FailedReplicas = field(default_factory=FailedReplicas)
    tier_found: TierFound = ""
    decided_at: float | None = None  # when it was ready to be picked for
    queued_at: float | None = None
    began_at: float | None = None  # its first step at that replica
    first_token_at: float | None = None
    ended_at: float | None = None
    generated: int = 0
    cached_tokens: int = 0
    cold: bool = False

    def end(self, outcome: str, at: float) -> None:
        """Note its end; it has one.

        Raises:
            IntegrityError: it has ended before.
        """
        if self.outcome != IN_FLIGHT:
            raise IntegrityError(
                f"request {self.index} ended as {self.outcome}, and again as {outcome}"
            )
        self.outcome, self.ended_at = outcome, at

    def served(self) -> ServedRequest:
        """Return it as the result has it."""
        arrived, first, ended = self.asked.at, self.first_token_at, self.ended_at
        began, queued_at = self.began_at, self.queued_at
        itl = None
        if first is not None and ended is not None and self.generated > 1:
            itl = (ended - first) / (self.generated - 1)
        return ServedRequest(
            self.asked,
            self.outcome,
            self.replica,
            self.tier_found,
            queued_at,
            None if began is None or queued_at is None else began - queued_at,
            None if first is None else first - arrived,
            None if ended is None else ended - arrived,
            itl,
            self.generated,
            self.cached_tokens,
            len(self.failed),
            self.cold,
        )
