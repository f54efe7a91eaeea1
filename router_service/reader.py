"""How a replica comes by the decision of a request that was sent to it."""

from cluster.clock import Clock
from cluster.config import DecisionConfig
from cluster.domain.decision import RoutingDecision
from cluster.errors import DecisionRejected, StoreUnavailable
from router_service.decision_store.codec import DecisionCodec, check_expiry, check_identity
from router_service.decision_store.decision_store import DecisionStore, SignedDecision
from router_service.decision_store.layered import LayeredStore, Origin, ReadOrder
from router_service.decision_store.local_cache import LocalCache


class DecisionReader:
    """Local cache, then the store, then the copy that came with the request.

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
        """``leeway_s``: how long after its expiry a carried copy still serves: a request may
        have been queued, or moved from a lost replica, since its decision was read.
        """
        self.store = store
        self._codec = codec
        self._clock = clock
        self._leeway_s = leeway_s
        self._layers = LayeredStore(
            store, LocalCache(clock, config.local_entries), ReadOrder.LOCAL_FIRST
        )

    async def read(self, carried: bytes) -> tuple[RoutingDecision, Origin]:
        """The decision to decode with, and where it was read.

        The carried copy names the decision and is used where the store is unreachable, does not
        have it, or holds one that fails its checks (the store's counters tell).

        Raises:
            DecisionRejected: the carried copy is not this cluster's, or is long expired.
        """
        decision = self._codec.decode_signed(carried)
        check_identity(decision, decision.tenant, decision.id)
        check_expiry(decision, self._clock.wall() - self._leeway_s)
        try:
            found = await self._layers.get(decision.tenant, decision.id)
        except (StoreUnavailable, DecisionRejected):
            found = None
        if found is not None:
            return found.signed.decision, found.origin
        self._layers.cache.put(SignedDecision(decision, carried))
        return decision, Origin.CARRIED

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
