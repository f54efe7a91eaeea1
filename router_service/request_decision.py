"""Defines a request's view of its decision: the decision, its signed copy, what the store did."""

from dataclasses import dataclass, replace
from enum import StrEnum

from cluster.domain.decision import DecisionSource, RoutingDecision
from router_service.decision_store.decision_store import StoredDecision


class StoreState(StrEnum):
    """Says what the decision store did for one request."""

    HIT = "hit"  # it had the decision
    WRITTEN = "written"  # it did not; it has it now, or is about to
    REPLACED = "replaced"  # its copy failed the checks; it has a fresh one now
    LOCAL = "local"  # unreachable; this process had the decision
    UNAVAILABLE = "unavailable"  # unreachable; only the request carries the decision
    SKIPPED = "skipped"  # a fallback is not kept


@dataclass(frozen=True, slots=True)
class RequestDecision:
    """Holds what the front needs of a decision to serve one request."""

    decision: RoutingDecision  # ``source`` is this request's
    encoded: bytes  # the signed copy that travels with the request
    store_state: StoreState

    @property
    def source(self) -> DecisionSource:
        """Return how this request came by its decision."""
        return self.decision.source

    @staticmethod
    def fresh(stored: StoredDecision, state: StoreState) -> "RequestDecision":
        """Describe a decision that was made for this request."""
        return RequestDecision(stored.decision, stored.encoded, state)

    @staticmethod
    def found(stored: StoredDecision, state: StoreState) -> "RequestDecision":
        """Describe a decision that was made for an earlier request."""
        decision = replace(stored.decision, source=DecisionSource.STORED)
        return RequestDecision(decision, stored.encoded, state)
