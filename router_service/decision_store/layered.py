"""Reads decisions from the store and from the process's own cache."""

from dataclasses import replace
from enum import StrEnum

from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import StoreUnavailable
from router_service.decision_store.decision_store import DecisionStore, Origin, StoredDecision
from router_service.decision_store.local_cache import LocalCache


class ReadOrder(StrEnum):
    """Says which copy is read first."""

    STORE_FIRST = "store_first"  # the front: it must notice when the stored copy is tampered with
    LOCAL_FIRST = "local_first"  # the replica: the copy it verified before is as good


class LayeredStore:
    """Reads from cache and store, and caches what the store returns."""

    def __init__(self, store: DecisionStore, cache: LocalCache, order: ReadOrder) -> None:
        self.store = store
        self.cache = cache
        self._order = order

    async def get(self, tenant: TenantId, decision_id: DecisionId) -> StoredDecision | None:
        """Return the decision, or None if neither cache nor store has it.

        With STORE_FIRST the cache is read only while the store is unreachable. With LOCAL_FIRST a
        complete cached copy is returned at once; an incomplete one may have been completed by
        another process, so the store is read first.

        Raises:
            DecisionRejected: the stored copy failed its checks.
            StoreUnavailable: the store did not answer and the cache does not have it.
        """
        if self._order is ReadOrder.LOCAL_FIRST:
            cached = self.cache.get(tenant, decision_id)
            if cached is not None and cached.decision.is_complete:
                return replace(cached, origin=Origin.LOCAL)
        try:
            stored = await self.store.get(tenant, decision_id)
        except StoreUnavailable:
            cached = self.cache.get(tenant, decision_id)
            if cached is None:
                raise
            return replace(cached, origin=Origin.LOCAL)
        if stored is not None:
            self.cache.put(stored)
        return stored

    async def put(self, stored: StoredDecision, ttl_s: float) -> None:
        """Write the decision to the cache and to the store.

        Raises:
            StoreUnavailable: only the cache has it.
        """
        self.cache.put(stored)
        await self.store.put(stored, ttl_s)
