"""Chooses the idle residents that make room in a tier.

GreedyDual (Young 1994; Cao and Irani 1997) with frequency (Cherkasova 1998). A resident's priority
is the ledger's inflation at its last use plus the cost of bringing it back times its uses. Evicting
raises the inflation to the victim's priority, so that old popularity fades. With equal costs and
uses the order is that of last use. Residents within another tenant's share stay
(``residency.shares``).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.adapters.residency.ledger import AdapterLedger
from cluster.adapters.residency.residency_types import SizedVersion
from cluster.adapters.residency.shares import Amount, Occupancy, ShareGuard, TierShares
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Evictable:
    """One adapter that may be evicted."""

    digest: AdapterDigest
    room: Occupancy
    desired: bool  # in the placement that the controller asked for
    priority: int
    last_use: int  # sequence number

    @property
    def nbytes(self) -> int:
        """The bytes that its eviction frees."""
        return self.room.nbytes


def eviction_order(idle: Iterable[Evictable]) -> list[Evictable]:
    """Sort for eviction: outside the desired placement, lowest priority, least recently used."""
    return sorted(idle, key=lambda e: (e.desired, e.priority, e.last_use))


def choose_victims(
    order: Iterable[Evictable],
    slots_short: int,
    bytes_short: int,
    guard: ShareGuard | None = None,
) -> tuple[Evictable, ...] | None:
    """Choose the first of ``order`` that free ``slots_short`` slots and ``bytes_short`` bytes.

    Adapters that ``guard`` protects stay. A victim whose room turns out not to be needed is spared,
    except the asking tenant's own, which are evicted before and instead of others'.

    Returns:
        The victims, or None if evicting all that is allowed would not suffice.
    """
    left = list(order)
    chosen: list[Evictable] = []
    freed = 0
    while len(chosen) < slots_short or freed < bytes_short:
        at = next((i for i, e in enumerate(left) if guard is None or guard.allows(e.room)), None)
        if at is None:
            return None
        victim = left.pop(at)
        chosen.append(victim)
        freed += victim.nbytes
        if guard is not None:
            guard.count_eviction(victim.room)

    def spare(own: bool) -> None:
        nonlocal freed
        for victim in reversed(chosen.copy()):
            mine = guard is None or guard.is_own(victim.room)
            surplus = len(chosen) > slots_short and freed - victim.nbytes >= bytes_short
            if mine is own and surplus:
                chosen.remove(victim)
                freed -= victim.nbytes

    spare(own=False)
    if guard is None or all(guard.is_own(victim.room) for victim in chosen):
        spare(own=True)
    return tuple(chosen)


class EvictionPolicy:
    """Chooses among the residents of one ledger."""

    def __init__(self, ledger: AdapterLedger) -> None:
        self._ledger = ledger
        self._slots_each = ledger.slots_for(1)

    def choose_evictions(
        self,
        wanted: Sequence[SizedVersion],
        tenant: TenantId | None,
        spared: Collection[AdapterDigest] = (),
        *,
        can_wait: bool,
    ) -> tuple[AdapterDigest, ...] | None:
        """Choose idle residents whose eviction makes room for ``wanted``.

        Args:
            tenant: asks for it and respects the others' shares; None respects ``spared`` alone.
            spared: residents that stay.
            can_wait: whether a request that is wider than its share waits while that can help,
                before it may evict adapters within others' shares.

        Returns:
            The victims, or None if they would not suffice.
        """
        short = self._ledger.shortage_after_evictions(wanted)
        shares = self._shares(() if tenant is None else (tenant,))
        exclude = {v.digest for v in wanted}
        idle = eviction_order(
            self._evictable(digest, shares)
            for digest in self._ledger.residents
            if digest not in exclude and digest not in spared and self._ledger.is_idle(digest)
        )
        guard = None if tenant is None else self._guard(shares, wanted, tenant)
        victims = choose_victims(idle, *short, guard)
        if victims is None and self._may_pass_shares(shares, wanted, tenant, can_wait):
            victims = choose_victims(idle, *short)
        return None if victims is None else tuple(victim.digest for victim in victims)

    def reserve_evicting(
        self, version: SizedVersion, tenant: TenantId | None
    ) -> tuple[AdapterDigest, ...] | None:
        """Reserve room for a version, and evict idle residents for it at once.

        Args:
            tenant: None for the cluster's own needs, which evict nothing that was used recently.

        Returns:
            The digests evicted, or None if the version cannot fit without evicting adapters in use
            or within another tenant's share.

        Raises:
            IntegrityError: the version is a resident already.
        """
        ledger = self._ledger
        if version.digest in ledger.residents:
            raise IntegrityError(f"{ledger.name}: {version.digest} is reserved already")
        victims: tuple[AdapterDigest, ...] | None = ()
        if max(ledger.shortage((version,))) > 0:
            spared = ledger.recently_used() if tenant is None else frozenset()
            victims = self.choose_evictions((version,), tenant, spared, can_wait=False)
        if victims is None:
            return None
        for digest in victims:
            ledger.count_eviction(digest)
            ledger.remove(digest)
        ledger.reserve(version, tenant)
        return victims

    def choose_to_close(
        self, wanted: Sequence[SizedVersion], tenant: TenantId
    ) -> frozenset[AdapterDigest]:
        """Choose residents that make room for ``wanted`` once they are idle: few claims first.

        Empty if pins leave no way.
        """
        short = self._ledger.shortage_after_evictions(wanted)
        shares = self._shares((tenant,))
        order = sorted(
            self._not_leaving(wanted, shares),
            key=lambda e: (
                self._ledger.residents[e.digest].claims,
                e.desired,
                e.priority,
                e.last_use,
            ),
        )
        chosen = choose_victims(order, *short, self._guard(shares, wanted, tenant))
        if chosen is None and self._may_pass_shares(shares, wanted, tenant, can_wait=True):
            chosen = choose_victims(order, *short)
        return frozenset() if chosen is None else frozenset(e.digest for e in chosen)

    def tenants_within_share(
        self, asked: Mapping[TenantId, Sequence[SizedVersion]]
    ) -> frozenset[TenantId]:
        """Return the tenants that would stay within their shares with what each asks for."""
        shares = self._shares(asked)
        return frozenset(
            tenant
            for tenant, wanted in asked.items()
            if shares.is_within_share(tenant, self._absent(wanted))
        )

    def _may_pass_shares(
        self,
        shares: TierShares,
        wanted: Sequence[SizedVersion],
        tenant: TenantId | None,
        can_wait: bool,
    ) -> bool:
        """Return whether a request is wider than its share and no wait for its own would help."""
        guard = None if tenant is None else self._guard(shares, wanted, tenant)
        if guard is None or not guard.too_wide:
            return False
        short = self._ledger.shortage_after_evictions(wanted)
        return (
            not can_wait or choose_victims(self._not_leaving(wanted, shares), *short, guard) is None
        )

    def _not_leaving(self, wanted: Sequence[SizedVersion], shares: TierShares) -> list[Evictable]:
        """Return all residents except those wanted, pinned or leaving."""
        exclude = {v.digest for v in wanted} | self._ledger.pinned
        return [
            self._evictable(digest, shares)
            for digest, r in self._ledger.residents.items()
            if digest not in exclude and r.state is not AdapterState.EVICTING
        ]

    def _shares(self, asking: Iterable[TenantId]) -> TierShares:
        """Return the shares at this moment; those who ask count as tenants."""
        ledger, each, now = self._ledger, self._slots_each, self._ledger.now
        tenants = ledger.recent.tenants(now)
        for tenant in asking:
            tenants.setdefault(tenant, ledger.recent.weight(tenant))
        pinned = [r.nbytes for d, r in ledger.residents.items() if d in ledger.pinned]
        return TierShares(
            {
                d: Occupancy(r.nbytes, ledger.recent.users(d, now), each)
                for d, r in ledger.residents.items()
                if d not in ledger.pinned
            },
            Amount(ledger.slots or 0, ledger.memory_bytes)
            - Amount(each * len(pinned), sum(pinned)),
            tenants,
        )

    def _guard(
        self, shares: TierShares, wanted: Sequence[SizedVersion], tenant: TenantId
    ) -> ShareGuard | None:
        """Return the guard of a tenant's request, or None for a tenant alone."""
        if not shares.has_several_tenants:
            return None
        whole = {v.digest: v.nbytes for v in wanted}
        return ShareGuard(
            shares,
            tenant,
            self._absent(wanted),
            Amount(self._slots_each * len(whole), sum(whole.values())),
        )

    def _absent(self, wanted: Sequence[SizedVersion]) -> Amount:
        """Return the room for those of ``wanted`` that are absent."""
        residents = self._ledger.residents
        absent = {v.digest: v.nbytes for v in wanted if v.digest not in residents}
        return Amount(self._slots_each * len(absent), sum(absent.values()))

    def _evictable(self, digest: AdapterDigest, shares: TierShares) -> Evictable:
        resident = self._ledger.residents[digest]
        return Evictable(
            digest,
            shares.occupied[digest],
            digest in self._ledger.desired,
            resident.priority,
            resident.last_use,
        )
