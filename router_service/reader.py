"""Reads, on a replica, the decision of a request that was sent to it."""

from cluster.clock import Clock
from cluster.config import DecisionConfig
from cluster.domain.decision import RoutingDecision
from cluster.errors import DecisionRejected, StoreUnavailable
from router_service.decision_store.codec import DecisionCodec, check_expiry, check_identity
from router_service.decision_store.decision_store import DecisionStore, Origin, StoredDecision
from router_service.decision_store.layered import LayeredStore, ReadOrder
from router_service.decision_store.local_cache import LocalCache


class DecisionReader:
    """Verifies the copy that came with a request, and looks for a completed one where it is not.

    One per process and event loop. Nothing is returned whose signature was not checked.
    """

    def __init__(
        self,
        *,
        store: DecisionStore,
        codec: DecisionCodec,
        clock: Clock,
        config: DecisionConfig,
        leeway_s: float,
    ) -> None:
        """Accept carried copies until ``leeway_s`` seconds after their expiry.

        A request may have been queued, or moved from a lost replica, since its decision was read.
        """
        self.store = store
        self._codec = codec
        self._clock = clock
        self._leeway_s = leeway_s
        self._layers = LayeredStore(
            store, LocalCache(clock, config.local_entries), ReadOrder.LOCAL_FIRST
        )

    async def read(self, carried: bytes) -> StoredDecision:
        """Return the decision to decode with, and its origin.

        A complete copy is used at once: the store cannot have a better one. One that prefill
        completes is looked for in the cache and in the store; the carried copy is used if the
        store is unreachable, does not have it, or holds one that fails its checks (the store's
        counters tell).

        Raises:
            DecisionRejected: the carried copy is not this cluster's, or is long expired.
        """
        decision = self._codec.decode_signed(carried)
        check_identity(decision, decision.tenant, decision.id)
        check_expiry(decision, self._clock.wall() - self._leeway_s)
        verified = StoredDecision(decision, carried, Origin.CARRIED)
        if decision.is_complete:
            return verified
        try:
            found = await self._layers.get(decision.tenant, decision.id)
        except (StoreUnavailable, DecisionRejected):
            found = None
        if found is not None:
            return found
        self._layers.cache.put(verified)
        return verified

    async def complete(self, decision: RoutingDecision) -> None:
        """Keep a decision that prefill has completed, for repeats, retries and other replicas.

        Raises:
            StoreUnavailable: only this process has it.
        """
        left = decision.expires_at - self._clock.wall()
        if left > 0:
            await self._layers.put(self._codec.sign(decision), left)

    async def close(self) -> None:
        """Close the store."""
        await self.store.close()
