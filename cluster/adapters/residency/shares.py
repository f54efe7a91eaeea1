"""What tenants may hold of a pool that they share.

While n tenants use a pool, the share of each is an n-th of its slots and of its bytes. An adapter
counts for every tenant that has used it lately. Room that one tenant needs is never taken from
another so that this one falls below its share; a tenant that has less than its share itself may
also take the last adapter that another one has above it. So whoever brings in many adapters evicts
its own, and a share that nobody claims is anybody's.

Why this never locks up: where all others are within their shares, everything that no other tenant
uses is at least one share, and it is the asking tenant's own or nobody's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, TenantId


@dataclass(frozen=True, slots=True)
class Amount:
    """Room in a pool."""

    slots: int
    nbytes: int

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.slots + other.slots, self.nbytes + other.nbytes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.slots - other.slots, self.nbytes - other.nbytes)

    def fits(self, limit: "Amount") -> bool:
        """Whether neither number is above the limit's."""
        return self.slots <= limit.slots and self.nbytes <= limit.nbytes

    def share(self, tenants: int) -> "Amount":
        """What each of so many may hold."""
        return Amount(self.slots // tenants, self.nbytes // tenants)


NOTHING = Amount(0, 0)


@dataclass(frozen=True, slots=True)
class Holding:
    """One adapter in a pool and the tenants it counts for."""

    nbytes: int
    users: frozenset[TenantId]
    slots: int = 1  # 0 in a pool of bytes alone

    @property
    def amount(self) -> Amount:
        """The room it takes."""
        return Amount(self.slots, self.nbytes)


class TenantUse:
    """Who used what lately. A use counts for ``window_s`` seconds."""

    def __init__(self, window_s: float, clock: Clock) -> None:
        self._window_s = window_s
        self._clock = clock
        self._uses: dict[AdapterDigest, dict[TenantId, float]] = {}  # monotonic, seconds
        self._seen: dict[TenantId, float] = {}  # monotonic, seconds

    def note(self, tenant: TenantId, digests: Iterable[AdapterDigest]) -> None:
        """A tenant uses these now."""
        now = self._clock.monotonic()
        for digest in digests:
            self._uses.setdefault(digest, {})[tenant] = now
            self._seen[tenant] = now

    def seen(self, tenant: TenantId) -> None:
        """A tenant is here, whether or not it gets what it asks for."""
        self._seen[tenant] = self._clock.monotonic()

    def forget(self, digest: AdapterDigest) -> None:
        """It has left the pool; who used it stays known as a user of the pool."""
        self._uses.pop(digest, None)

    def users(self, digest: AdapterDigest) -> frozenset[TenantId]:
        """Who used it lately."""
        return _recent(self._uses.get(digest, {}), self._since)

    def tenants(self) -> frozenset[TenantId]:
        """Who was here lately."""
        recent = _recent(self._seen, self._since)
        if len(recent) < len(self._seen):
            self._seen = {tenant: at for tenant, at in self._seen.items() if tenant in recent}
        return recent

    @property
    def _since(self) -> float:
        return self._clock.monotonic() - self._window_s


class ShareGuard:
    """Says what a request of one tenant may evict, and counts along what it does.

    Args:
        holdings: everything in the pool that counts for shares.
        total: of the pool, without what is pinned.
        tenants: who uses the pool.
        tenant: who asks.
        need: room for what it asks for that is not here yet.
        whole: room for all that it asks for.
    """

    def __init__(
        self,
        holdings: Mapping[AdapterDigest, Holding],
        total: Amount,
        tenants: frozenset[TenantId],
        tenant: TenantId,
        need: Amount,
        whole: Amount,
    ) -> None:
        self._tenant = tenant
        self._need = need
        self._whole = whole
        self.share = total.share(len(tenants | {tenant}))
        self._held: dict[TenantId, Amount] = {}
        self._own = NOTHING
        for holding in holdings.values():
            for user in holding.users:
                self._held[user] = self._held.get(user, NOTHING) + holding.amount
            if holding.users == {tenant}:
                self._own += holding.amount

    @property
    def within_share(self) -> bool:
        """Whether the tenant's own adapters and what it asks for are within its share."""
        return (self._own + self._need).fits(self.share)

    @property
    def too_wide(self) -> bool:
        """Whether what it asks for at once is more than a share: no wait within it would help."""
        return not self._whole.fits(self.share)

    def is_own(self, holding: Holding) -> bool:
        """Whether no other tenant uses it."""
        return not holding.users - {self._tenant}

    def allows(self, holding: Holding) -> bool:
        """Whether it may be evicted for the request."""
        for user in holding.users - {self._tenant}:
            held = self._held[user]
            if self.within_share:
                if held.fits(self.share):
                    return False
            else:
                left = held - holding.amount
                enough_slots = 0 < self.share.slots <= left.slots
                if not enough_slots and left.nbytes < self.share.nbytes:
                    return False
        return True

    def take(self, holding: Holding) -> None:
        """It is going."""
        for user in holding.users:
            self._held[user] -= holding.amount
        if holding.users == {self._tenant}:
            self._own -= holding.amount


def _recent(times: Mapping[TenantId, float], since: float) -> frozenset[TenantId]:
    return frozenset(tenant for tenant, at in times.items() if at > since)
