"""Keeps verified decisions in a process, in front of the store."""

from collections import OrderedDict

from cluster.clock import Clock
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import IntegrityError
from router_service.decision_store.decision_store import StoredDecision


class LocalCache:
    """Caches ``max_entries`` decisions by least recent use, each until its own expiry.

    What enters has been verified; it is not verified again.
    """

    def __init__(self, clock: Clock, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, not {max_entries}")
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[tuple[TenantId, DecisionId], StoredDecision] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, tenant: TenantId, decision_id: DecisionId) -> StoredDecision | None:
        """Return the decision, or None if it is not kept or its time is over."""
        key = (tenant, decision_id)
        stored = self._entries.get(key)
        if stored is None:
            return None
        if self._clock.wall() >= stored.decision.expires_at:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return stored

    def put(self, stored: StoredDecision) -> None:
        """Keep a verified decision, dropping the least recently used beyond the limit."""
        key = (stored.decision.tenant, stored.decision.id)
        self._entries[key] = stored
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def check_integrity(self) -> None:
        """Raise IntegrityError when more is held than allowed or an entry is misfiled."""
        if len(self._entries) > self._max_entries:
            raise IntegrityError(
                f"local cache holds {len(self._entries)} entries, limit {self._max_entries}"
            )
        misfiled = sum(
            (stored.decision.tenant, stored.decision.id) != key
            for key, stored in self._entries.items()
        )
        if misfiled:
            raise IntegrityError(
                f"local cache holds {misfiled} misfiled of {len(self._entries)} entries"
            )
