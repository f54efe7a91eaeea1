"""A store with the process's own cache, in one of two orders."""

from dataclasses import dataclass
from enum import StrEnum

from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import StoreUnavailable
from router_service.decision_store.decision_store import DecisionStore, SignedDecision
from router_service.decision_store.local_cache import LocalCache


class ReadOrder(StrEnum):
    """Which copy is asked for first."""

    STORE_FIRST = "store_first"  # the front: it must notice when the stored copy is tampered with
    LOCAL_FIRST = "local_first"  # the replica: the copy it verified before is as good


class Origin(StrEnum):
    """Where a decision was read."""

    LOCAL = "local"  # this process's cache
    STORE = "store"
    CARRIED = "carried"  # the copy that came with the request


@dataclass(frozen=True, slots=True)
class Found:
    """A verified decision and where it was read."""

    signed: SignedDecision
    origin: Origin


class LayeredStore:
    """Reads from cache and store; what the store answers is kept in the cache."""

    def __init__(self, store: DecisionStore, cache: LocalCache, order: ReadOrder) -> None:
        self.store = store
        self.cache = cache
        self._order = order

    async def get(self, tenant: TenantId, decision_id: DecisionId) -> Found | None:
        """The decision, or ``None`` when neither has it.

        With STORE_FIRST the cache answers only while the store is unreachable; and so it does with
        LOCAL_FIRST where its copy is not complete, because another process may have completed it.

        Raises:
            DecisionRejected: the stored copy failed its checks.
            StoreUnavailable: the store did not answer and the cache does not have it.
        """
        if self._order is ReadOrder.LOCAL_FIRST:
            local = self.cache.get(tenant, decision_id)
            if local is not None and local.decision.is_complete:
                return Found(local, Origin.LOCAL)
        try:
            stored = await self.store.get(tenant, decision_id)
        except StoreUnavailable:
            local = self.cache.get(tenant, decision_id)
            if local is None:
                raise
            return Found(local, Origin.LOCAL)
        if stored is None:
            return None
        self.cache.put(stored)
        return Found(stored, Origin.STORE)

    async def put(self, signed: SignedDecision, ttl_s: float) -> None:
        """Keep the decision in the cache and in the store.

        Raises:
            StoreUnavailable: only the cache has it.
        """
        self.cache.put(signed)
        await self.store.put(signed, ttl_s)
