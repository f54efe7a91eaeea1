"""Keeps decisions within one process: for one-process set-ups and as the suite's model."""

from collections import OrderedDict

from cluster.clock import Clock
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import DecisionRejected, IntegrityError
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import StoreCounters, StoredDecision
from router_service.decision_store.keys import decision_key


class MemoryDecisionStore:
    """Keeps at most ``max_entries`` signed documents; the least recently written go first."""

    def __init__(self, codec: DecisionCodec, clock: Clock, max_entries: int = 65536) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self.counters = StoreCounters()
        self._codec = codec
        self._clock = clock
        self._max_entries = max_entries
        self._documents: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, tenant: TenantId, decision_id: DecisionId) -> StoredDecision | None:
        key = decision_key(tenant, decision_id)
        now = self._clock.wall()
        found = self._documents.get(key)
        if found is None or found[0] <= now:
            self._documents.pop(key, None)
            self.counters.misses += 1
            return None
        try:
            stored = self._codec.open(found[1], tenant=tenant, decision_id=decision_id, now=now)
        except DecisionRejected as error:
            self.counters.count_rejection(error)
            raise
        self.counters.hits += 1
        return stored

    async def put(self, stored: StoredDecision, ttl_s: float) -> None:
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, not {ttl_s}")
        key = decision_key(stored.decision.tenant, stored.decision.id)
        self.write_raw(key, stored.encoded, ttl_s)
        self.counters.stored += 1

    def write_raw(self, key: str, document: bytes, ttl_s: float) -> None:
        """Put bytes under a key unchecked, as anyone with access to a shared store could."""
        self._documents[key] = (self._clock.wall() + ttl_s, document)
        self._documents.move_to_end(key)
        while len(self._documents) > self._max_entries:
            self._documents.popitem(last=False)

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        self._documents.clear()

    def check_integrity(self) -> None:
        """Raise IntegrityError when more is held than allowed."""
        if len(self._documents) > self._max_entries:
            raise IntegrityError(
                f"decision store holds {len(self._documents)} entries, limit {self._max_entries}"
            )
