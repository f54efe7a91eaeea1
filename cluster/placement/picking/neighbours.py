"""Recent requests to each replica by tenant, so that tenants can keep out of each other's way.

A tenant that is quiet for a moment is still there: what it sent counts on, and fades.
"""

import math
from dataclasses import dataclass, field

from cluster.domain.ids import ReplicaId, TenantId

WINDOW_S = 10.0
"""Time constant: a request that was sent ``s`` seconds ago counts ``exp(-s / WINDOW_S)``."""
FADED = 0.05
"""Less than this counts as nothing: a lone request after three windows."""
_SWEEP_AT = 64  # tenants of a replica before the faded ones are looked for


@dataclass(slots=True)
class _Count:
    value: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        return self.value * math.exp(-max(0.0, at - self.at) / WINDOW_S)

    def add(self, at: float) -> None:
        self.value, self.at = self.now(at) + 1.0, max(self.at, at)


@dataclass(slots=True)
class _RecentRequests:
    total: _Count = field(default_factory=_Count)
    by_tenant: dict[TenantId, _Count] = field(default_factory=dict)
    sweep_at: int = _SWEEP_AT


class Neighbours:
    """Fading counts of requests per replica and tenant. Times are wall-clock seconds."""

    def __init__(self) -> None:
        self._sent: dict[ReplicaId, _RecentRequests] = {}

    def sent(self, replica_id: ReplicaId, tenant: TenantId, now: float) -> None:
        """Count a request."""
        sent = self._sent.setdefault(replica_id, _RecentRequests())
        sent.total.add(now)
        sent.by_tenant.setdefault(tenant, _Count()).add(now)
        if len(sent.by_tenant) >= sent.sweep_at:
            kept = {t: count for t, count in sent.by_tenant.items() if count.now(now) >= FADED}
            sent.by_tenant = kept
            sent.sweep_at = max(_SWEEP_AT, 2 * len(kept))

    def of_others(self, replica_id: ReplicaId, tenant: TenantId, now: float) -> float:
        """Return the recent requests of all other tenants to the replica, fading."""
        sent = self._sent.get(replica_id)
        if sent is None:
            return 0.0
        own = sent.by_tenant.get(tenant)
        others = sent.total.now(now) - (own.now(now) if own is not None else 0.0)
        return others if others >= FADED else 0.0

    def remove(self, replica_id: ReplicaId) -> None:
        """Forget a lost replica."""
        self._sent.pop(replica_id, None)
