"""Cumulative numbers of one replica's requests, for metrics."""

from dataclasses import dataclass

from cluster.domain.request import FinishReason
from router_service.decision_store.decision_store import Origin


@dataclass(slots=True)
class RequestCounters:
    """Requests and their decisions since the start. Only their tracker changes them."""

    requests_arrived: int = 0
    decisions_local: int = 0
    decisions_store: int = 0
    decisions_carried: int = 0
    decisions_rejected: int = 0
    decisions_completed: int = 0  # in prefill, and written to the store
    decisions_not_written: int = 0  # in prefill, and the store was down
    requests_finished: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0

    def count_decision(self, origin: Origin) -> None:
        """Count a decision by where it was read."""
        match origin:
            case Origin.LOCAL:
                self.decisions_local += 1
            case Origin.STORE:
                self.decisions_store += 1
            case _:
                self.decisions_carried += 1

    def count_end(self, reason: FinishReason) -> None:
        """Count a request by how it ended."""
        match reason:
            case FinishReason.ERROR | FinishReason.DEADLINE:
                self.requests_failed += 1
            case FinishReason.CANCELLED:
                self.requests_cancelled += 1
            case _:
                self.requests_finished += 1

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """Return the numbers by name."""
        return tuple((name, float(getattr(self, name))) for name in self.__slots__)


@dataclass(slots=True)
class RerouteCounters:
    """Re-routes since the start."""

    reroutes_applied: int = 0
    reroutes_refused: int = 0  # the request kept its adapters
    replays_reduced: int = 0  # computed again with the newest adapters alone

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """Return the numbers by name."""
        return tuple((name, float(getattr(self, name))) for name in self.__slots__)
