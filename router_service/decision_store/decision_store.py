"""Defines what every decision store does, and the form decisions have there."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import DecisionRejected


class DecisionTampered(DecisionRejected):
    """The bytes do not carry this cluster's signature."""


class DecisionExpired(DecisionRejected):
    """The signature is right and the time is over."""


class DecisionForeign(DecisionRejected):
    """The signature is right and the decision is another one: a replay."""


class Origin(StrEnum):
    """Says where this process has a decision from."""

    SIGNED = "signed"  # made and signed here
    LOCAL = "local"  # read from this process's cache
    STORE = "store"  # read from the store
    CARRIED = "carried"  # came with the request


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """Pairs a verified decision with the signed bytes that are stored and sent to replicas."""

    decision: RoutingDecision
    encoded: bytes
    origin: Origin = field(default=Origin.SIGNED, compare=False)


@dataclass(slots=True)
class StoreCounters:
    """Counts what happened at one store since it was made; each operation in one field."""

    hits: int = 0
    misses: int = 0
    tampered: int = 0
    expired: int = 0
    foreign: int = 0
    unavailable: int = 0  # no answer in time, or not asked because the breaker was open
    stored: int = 0

    def count_rejection(self, error: DecisionRejected) -> None:
        """Add one to the field of the failed check."""
        match error:
            case DecisionExpired():
                self.expired += 1
            case DecisionForeign():
                self.foreign += 1
            case _:
                self.tampered += 1


class DecisionStore(Protocol):
    """Keeps signed decisions until they expire."""

    counters: StoreCounters

    async def get(self, tenant: TenantId, decision_id: DecisionId) -> StoredDecision | None:
        """Return the decision kept under this id, verified, or None if there is none.

        Raises:
            DecisionRejected: what is kept failed its signature, expiry or identity check.
            StoreUnavailable: the store did not answer in time.
        """
        ...

    async def put(self, stored: StoredDecision, ttl_s: float) -> None:
        """Keep the decision for ``ttl_s`` seconds (> 0), replacing what was there.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        ...

    async def ping(self) -> None:
        """Ask the store for a sign of life.

        Raises:
            StoreUnavailable: there was none.
        """
        ...

    async def close(self) -> None:
        """Give back connections; the store is not used afterwards."""
        ...
