"""Divides a tier among the tenants that use it, so that none pushes another below its share.

The tenants that use a tier are owed its slots and bytes by their weights (``tenancy.shares``). An
adapter counts for every tenant that used it within the window. A request never takes room from
another tenant so that this tenant falls below its share. A tenant that has less than its share
itself may also take the last adapter that another tenant has above its share. So a tenant that
brings in many adapters evicts its own, and a share without a claimant is open to all.

The shares cannot deadlock: where all others are within their shares, the room that no other tenant
uses is at least one share, and it is the asking tenant's own or unused.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.tenancy.shares import DEFAULT_WEIGHT, owed_shares

_ROUNDING = 1 + 1e-12  # a third of 3 slots is 1 slot


@dataclass(frozen=True, slots=True)
class Amount:
    """Room in a tier."""

    slots: int  # 0 in a tier of bytes alone
    nbytes: int

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.slots + other.slots, self.nbytes + other.nbytes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.slots - other.slots, self.nbytes - other.nbytes)

    def fits(self, limit: "Amount") -> bool:
        """Return whether neither number is above the limit's."""
        return self.slots <= limit.slots and self.nbytes <= limit.nbytes

    def part(self, share: float) -> "Amount":
        """Return so much of it, in whole slots and bytes."""
        exact = share * _ROUNDING
        return Amount(math.floor(self.slots * exact), math.floor(self.nbytes * exact))


NO_ROOM = Amount(0, 0)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The room that one adapter takes, and the tenants it counts for."""

    nbytes: int
    users: frozenset[TenantId]
    slots: int = 1  # 0 in a tier of bytes alone

    @property
    def amount(self) -> Amount:
        """The room it takes."""
        return Amount(self.slots, self.nbytes)


class RecentUses:
    """Remembers which tenants used which adapters. A use counts for ``window_s`` seconds.

    What is asked for one decision is asked with one time, so that no tenant leaves in between.

    Args:
        weights: of tenants, as they are now; 1 where absent.
    """

    def __init__(self, window_s: float, clock: Clock, weights: Mapping[TenantId, float]) -> None:
        self._window_s = window_s
        self._weights = weights
        self._clock = clock
        self._uses: dict[AdapterDigest, dict[TenantId, float]] = {}  # monotonic, seconds
        self._seen: dict[TenantId, float] = {}  # monotonic, seconds

    def note_use(self, tenant: TenantId, digests: Iterable[AdapterDigest]) -> None:
        """Record that a tenant uses these versions now."""
        now = self._clock.monotonic()
        for digest in digests:
            self._uses.setdefault(digest, {})[tenant] = now
            self._seen[tenant] = now

    def note_tenant(self, tenant: TenantId) -> None:
        """Record that a tenant asks now, whether or not its request is granted."""
        self._seen[tenant] = self._clock.monotonic()

    def remove_uses(self, digest: AdapterDigest) -> None:
        """Remove the uses of a version that left; its users still count as tenants of the tier."""
        self._uses.pop(digest, None)

    def users(self, digest: AdapterDigest, now: float) -> frozenset[TenantId]:
        """Return the tenants that used a version within the window before ``now``."""
        uses = self._uses.get(digest)
        return frozenset() if uses is None else frozenset(self._within_window(uses, now))

    def tenants(self, now: float) -> dict[TenantId, float]:
        """Return the tenants that used the tier within the window before ``now``: their weights."""
        return {tenant: self.weight(tenant) for tenant in self._within_window(self._seen, now)}

    def weight(self, tenant: TenantId) -> float:
        """Return a tenant's weight."""
        return self._weights.get(tenant, DEFAULT_WEIGHT)

    def _within_window(self, times: dict[TenantId, float], now: float) -> Iterable[TenantId]:
        """Return the tenants that are not too long ago, and forget the others."""
        since = now - self._window_s
        for tenant in [tenant for tenant, at in times.items() if at <= since]:
            del times[tenant]
        return times


class TierShares:
    """Knows what each tenant has of a tier at one moment, and what it is owed.

    Args:
        occupied: the adapters in the tier that count for shares.
        total: room of the tier, without the pinned adapters.
        weights: of the tenants that use the tier or ask for room in it.
    """

    def __init__(
        self,
        occupied: Mapping[AdapterDigest, Occupancy],
        total: Amount,
        weights: Mapping[TenantId, float],
    ) -> None:
        self.occupied = occupied
        self.used: dict[TenantId, Amount] = {}
        self.own: dict[TenantId, Amount] = {}  # of this, what no other tenant uses
        self._shares = {user: total.part(part) for user, part in owed_shares(weights).items()}
        for room in occupied.values():
            for user in room.users:
                self.used[user] = self.used.get(user, NO_ROOM) + room.amount
                if len(room.users) == 1:
                    self.own[user] = self.own.get(user, NO_ROOM) + room.amount

    @property
    def has_several_tenants(self) -> bool:
        """True if tenants take room from each other; one alone may have all of it."""
        return len(self._shares) > 1

    def share(self, tenant: TenantId) -> Amount:
        """Return what a tenant is owed."""
        return self._shares[tenant]

    def is_within_share(self, tenant: TenantId, need: Amount) -> bool:
        """Return whether a tenant would stay within its share with so much more."""
        own = self.own.get(tenant, NO_ROOM)
        return not self.has_several_tenants or (own + need).fits(self._shares[tenant])


class ShareGuard:
    """Decides which adapters one tenant's request may evict, and counts the evictions.

    Args:
        shares: of the tier at this moment; unchanged.
        tenant: the tenant that asks.
        need: room for the versions it asks for that are absent.
        whole: room for all the versions it asks for.
    """

    def __init__(self, shares: TierShares, tenant: TenantId, need: Amount, whole: Amount) -> None:
        self._shares = shares
        self._tenant = tenant
        self._need = need
        self._whole = whole
        self._used = dict(shares.used)
        self._own = shares.own.get(tenant, NO_ROOM)

    @property
    def within_share(self) -> bool:
        """True if the tenant's own adapters and the versions it asks for fit in its share."""
        return (self._own + self._need).fits(self._shares.share(self._tenant))

    @property
    def too_wide(self) -> bool:
        """True if one request asks for more than a share, so that waiting within it is useless."""
        return not self._whole.fits(self._shares.share(self._tenant))

    def is_own(self, room: Occupancy) -> bool:
        """Return whether no other tenant uses an adapter."""
        return not room.users - {self._tenant}

    def allows(self, room: Occupancy) -> bool:
        """Return whether the request may evict an adapter."""
        for user in room.users - {self._tenant}:
            used, share = self._used[user], self._shares.share(user)
            if self.within_share:
                if used.fits(share):
                    return False
            else:
                left = used - room.amount
                enough_slots = 0 < share.slots <= left.slots
                if not enough_slots and left.nbytes < share.nbytes:
                    return False
        return True

    def count_eviction(self, room: Occupancy) -> None:
        """Subtract an adapter that is chosen for eviction."""
        for user in room.users:
            self._used[user] -= room.amount
        if room.users == {self._tenant}:
            self._own -= room.amount
