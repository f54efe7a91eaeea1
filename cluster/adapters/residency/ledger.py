"""Accounts for the adapters of one tier: the slots on the device, or the bytes of host memory.

Pure: no tensors, no tasks, no waiting. ``AdapterPool`` owns the ledger of the slots and
``HostTier`` the ledger of host memory. A resident takes its room from ``reserve`` to ``remove``, so
that room is promised once. A resident is evicted only while it is at rest, unclaimed and unpinned.
``residency.eviction`` has the order of eviction and the tenants' shares.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.adapters.residency.residency_types import SizedVersion
from cluster.adapters.residency.shares import RecentUses
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.errors import IntegrityError
from cluster.tenancy.shares import NO_WEIGHTS

NO_SLOT = Slot(-1)  # of a resident in a ledger of bytes alone
MAX_COUNTED_USES = 8  # more raise no priority: what was popular leaves after as many evictions


@dataclass(slots=True)
class Resident:
    """One version that has room in the tier."""

    version: SizedVersion
    slot: Slot
    nbytes: int
    state: AdapterState = AdapterState.FETCHING
    claims: int = 0
    uses: int = 0
    priority: int = 0
    last_use: int = 0  # sequence number
    last_used: float = 0.0  # monotonic, seconds


class AdapterLedger:
    """Keeps residents, claims, pins and recent uses of one tier.

    Args:
        name: of the tier, for messages.
        memory_bytes: of all residents together; 0 holds none.
        slots: one for each resident; None in a tier of bytes alone.
        share_window_s: seconds for which a use counts for its tenant's share.
        weights: of tenants, as they are now; 1 where absent.

    The cost of bringing a resident back is its bytes. A priority is the cost by share of the tier,
    of slots or bytes, whichever is scarcer: the bytes, but no more than a slot has on average.
    """

    def __init__(
        self,
        name: str,
        memory_bytes: int,
        slots: int | None,
        share_window_s: float,
        clock: Clock,
        weights: Mapping[TenantId, float] = NO_WEIGHTS,
    ) -> None:
        self.name = name
        self.memory_bytes = memory_bytes
        self.slots = slots
        self.at_rest = AdapterState.ON_HOST if slots is None else AdapterState.READY
        self.residents: dict[AdapterDigest, Resident] = {}
        self._ordered: list[tuple[AdapterDigest, Resident]] | None = None  # None: to be sorted
        self.bytes_used = 0
        self.evictions = 0
        self.desired: frozenset[AdapterDigest] = frozenset()
        """The placement that eviction spares while it can."""
        self.pinned: frozenset[AdapterDigest] = frozenset()
        """All that is never evicted: pinned one by one, or by the placement."""
        self._pins: set[AdapterDigest] = set()  # one by one
        self._placed_pins: frozenset[AdapterDigest] = frozenset()
        self.recent = RecentUses(share_window_s, clock, weights)
        self._clock = clock
        self._free: list[int] = list(range(slots or 0))
        self._claims: dict[int, tuple[TenantId | None, frozenset[AdapterDigest]]] = {}
        self._next_claim = 1
        self._inflation = 0
        self._use_number = 0

    # Room

    def reserve(self, version: SizedVersion, tenant: TenantId | None = None) -> Resident:
        """Promise the lowest free slot and the version's bytes; it is FETCHING from now on.

        Args:
            tenant: counts it for this tenant's share at once.

        Raises:
            IntegrityError: the version is a resident already, or it does not fit.
        """
        digest = version.digest
        if digest in self.residents:
            raise IntegrityError(f"{self.name}: {digest} is reserved already")
        if max(self.shortage((version,))) > 0:
            raise IntegrityError(f"{self.name}: {version.nbytes} bytes for {digest} do not fit")
        slot = NO_SLOT if self.slots is None else Slot(heapq.heappop(self._free))
        resident = self.residents[digest] = Resident(version, slot, version.nbytes)
        self._ordered = None
        self.bytes_used += version.nbytes
        self._touch(resident)
        if tenant is not None:
            self.recent.note_use(tenant, (digest,))
        return resident

    def change_state(
        self, digest: AdapterDigest, before: AdapterState, after: AdapterState
    ) -> None:
        """Move a resident from one state to another.

        Raises:
            IntegrityError: it is not here, or not in the state ``before``.
        """
        self.expect_state(digest, before).state = after

    def expect_state(self, digest: AdapterDigest, state: AdapterState) -> Resident:
        """Return a resident that must be in ``state``.

        Raises:
            IntegrityError: it is not here, or in another state.
        """
        resident = self.residents.get(digest)
        if resident is None or resident.state is not state:
            found = AdapterState.ABSENT if resident is None else resident.state
            raise IntegrityError(f"{self.name}: {digest} is {found}, expected {state}")
        return resident

    def resize(self, digest: AdapterDigest, nbytes: int) -> None:
        """Replace the bytes promised to a resident by the bytes that it takes."""
        self.bytes_used += nbytes - self.residents[digest].nbytes
        self.residents[digest].nbytes = nbytes

    def count_eviction(self, digest: AdapterDigest) -> None:
        """Count an eviction, and raise the inflation to the victim's priority."""
        self._inflation = max(self._inflation, self.residents[digest].priority)
        self.evictions += 1

    def remove(self, digest: AdapterDigest) -> None:
        """Free the room of a resident.

        Raises:
            IntegrityError: a claim on it is open.
        """
        resident = self.residents[digest]
        if resident.claims:
            raise IntegrityError(
                f"{self.name}: {digest} leaves with {resident.claims} claims, expected 0"
            )
        del self.residents[digest]
        self._ordered = None
        self.bytes_used -= resident.nbytes
        if self.slots is not None:
            heapq.heappush(self._free, resident.slot)
        self.recent.remove_uses(digest)

    def shortage(self, wanted: Iterable[SizedVersion]) -> tuple[int, int]:
        """Return the slots and bytes missing for those of ``wanted`` that are absent or leaving."""
        new = {
            v.digest: v.nbytes
            for v in wanted
            if v.digest not in self.residents
            or self.residents[v.digest].state is AdapterState.EVICTING
        }
        room = self.memory_bytes - self.bytes_used
        return self.slots_for(len(new)) - len(self._free), sum(new.values()) - room

    def shortage_after_evictions(self, wanted: Iterable[SizedVersion]) -> tuple[int, int]:
        """Return the shortage that remains once the residents that are EVICTING have left."""
        slots_short, bytes_short = self.shortage(wanted)
        leaving = [r.nbytes for r in self.residents.values() if r.state is AdapterState.EVICTING]
        return slots_short - self.slots_for(len(leaving)), bytes_short - sum(leaving)

    def slots_for(self, residents: int) -> int:
        """Return the slots that so many residents take."""
        return 0 if self.slots is None else residents

    # Claims, pins and uses

    def claim(self, digests: frozenset[AdapterDigest], tenant: TenantId | None = None) -> int:
        """Keep residents until ``end_claim`` of the number returned.

        Args:
            tenant: the end of the claim counts as a use of this tenant.
        """
        number = self._next_claim
        self._next_claim += 1
        for digest in digests:
            self.residents[digest].claims += 1
        self._claims[number] = tenant, digests
        return number

    def end_claim(self, number: int) -> bool:
        """End a claim; returns False if it had ended before."""
        ended = self._claims.pop(number, None)
        if ended is None:
            return False
        tenant, digests = ended
        if tenant is not None:
            self.recent.note_use(tenant, digests)
        for digest in digests:
            self.residents[digest].claims -= 1
        return True

    def end_claims_on(self, digest: AdapterDigest) -> None:
        """End every claim that a resident is part of; ending one of them again does nothing."""
        for number in [n for n, (_, digests) in self._claims.items() if digest in digests]:
            self.end_claim(number)

    @property
    def claims(self) -> int:
        """Number of open claims."""
        return len(self._claims)

    def note_use(self, digests: Collection[AdapterDigest], tenant: TenantId | None) -> None:
        """Record a use of residents; it counts for the tenant's share if there is a tenant."""
        if tenant is not None:
            self.recent.note_use(tenant, digests)
        for digest in digests:
            resident = self.residents[digest]
            resident.uses += 1
            self._touch(resident)

    def pin_adapter(self, digest: AdapterDigest) -> None:
        """Prevent the eviction of a version, whether it is here yet or not."""
        self._pins.add(digest)
        self.pinned = self._placed_pins | self._pins

    def unpin_adapter(self, digest: AdapterDigest) -> None:
        """Undo ``pin_adapter``."""
        self._pins.discard(digest)
        self.pinned = self._placed_pins | self._pins

    def set_placement(
        self, desired: Iterable[AdapterDigest], pinned: Iterable[AdapterDigest] = ()
    ) -> None:
        """Set the placement, and those of it that are never evicted."""
        self.desired = frozenset(desired)
        self._placed_pins = self.desired.intersection(pinned)
        self.pinned = self._placed_pins | self._pins

    def forget_wishes(self, digest: AdapterDigest) -> None:
        """Take a version out of the pins and the placement."""
        self.set_placement(self.desired - {digest}, self._placed_pins - {digest})
        self.unpin_adapter(digest)

    @property
    def now(self) -> float:
        """Monotonic seconds, for all that one decision asks of ``recent``."""
        return self._clock.monotonic()

    def unused_for(self, digest: AdapterDigest) -> float:
        """Return the seconds since a resident's last use."""
        return self.now - self.residents[digest].last_used

    def is_idle(self, digest: AdapterDigest) -> bool:
        """Return whether a resident may be evicted: at rest, unclaimed and unpinned."""
        resident = self.residents[digest]
        return resident.state is self.at_rest and resident.claims == 0 and digest not in self.pinned

    def recently_used(self) -> frozenset[AdapterDigest]:
        """Return the residents that a tenant used within the window."""
        now = self.now
        return frozenset(digest for digest in self.residents if self.recent.users(digest, now))

    def tenants(self) -> set[TenantId]:
        """Return the tenants that used the tier within the window, or have claims."""
        claiming = {tenant for tenant, _ in self._claims.values() if tenant is not None}
        return claiming.union(self.recent.tenants(self.now))

    # Reading

    def resident_adapters(
        self, before: Sequence[ResidentAdapter] = ()
    ) -> tuple[ResidentAdapter, ...]:
        """Return every resident, by slot; by digest in a tier of bytes alone.

        In host memory, claims are of loads and of waiting requests, and not leases.

        Args:
            before: an earlier answer. Its members are used again where only ``idle_s`` differs.
        """
        now, pinned, counts_leases = self.now, self.pinned, self.slots is not None
        earlier = {adapter.digest: adapter for adapter in before}
        found = []
        if self._ordered is None:
            self._ordered = sorted(self.residents.items(), key=_place)
        for digest, resident in self._ordered:
            adapter = earlier.get(digest)
            leases = resident.claims if counts_leases else 0
            if (
                adapter is None
                or adapter.leases != leases
                or adapter.state is not resident.state
                or adapter.nbytes != resident.nbytes
                or adapter.pinned is not (digest in pinned)
            ):
                adapter = ResidentAdapter(
                    digest,
                    resident.version.alias,
                    resident.state,
                    resident.nbytes,
                    resident.version.rank,
                    leases,
                    digest in pinned,
                    idle_s=max(0.0, now - resident.last_used),
                )
            found.append(adapter)
        return tuple(found)

    def check_integrity(self) -> None:
        """Verify that slots, bytes and claims add up.

        Raises:
            IntegrityError: with both numbers.
        """
        slots = [*self._free, *(r.slot for r in self.residents.values() if r.slot != NO_SLOT)]
        self.expect("slots, free and taken", sorted(slots), list(range(self.slots or 0)))
        self.expect("bytes", sum(r.nbytes for r in self.residents.values()), self.bytes_used)
        if self.bytes_used > self.memory_bytes:
            raise IntegrityError(
                f"{self.name}: {self.bytes_used} bytes used of {self.memory_bytes}"
            )
        claimed = Counter(digest for _, digests in self._claims.values() for digest in digests)
        for digest, resident in self.residents.items():
            self.expect(f"claims on {digest}", resident.claims, claimed[digest])
            if resident.state is AdapterState.EVICTING:
                self.expect(f"claims on {digest}, being evicted", resident.claims, 0)
        self.expect("claimed but not here", sorted(claimed.keys() - self.residents.keys()), [])

    def expect(self, subject: str, found: object, expected: object) -> None:
        """Raise IntegrityError, with both values, unless they agree."""
        if found != expected:
            raise IntegrityError(f"{self.name}: {subject}: found {found}, expected {expected}")

    # Inside

    def _touch(self, resident: Resident) -> None:
        self._use_number += 1
        resident.last_use = self._use_number
        resident.last_used = self.now
        cost = 1 if self.slots is None else min(resident.nbytes, self.memory_bytes // self.slots)
        resident.priority = self._inflation + weight_of(resident.uses) * cost


def _place(item: tuple[AdapterDigest, Resident]) -> tuple[Slot, AdapterDigest]:
    return item[1].slot, item[0]


def weight_of(uses: int) -> int:
    """Return the factor on an adapter's cost for its uses; 1 before the first use."""
    return min(max(uses, 1), MAX_COUNTED_USES)
