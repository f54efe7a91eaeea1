"""Books of one replica's adapter slots: who is where, who is in use, who goes next.

Pure: no tensors, no tasks, no waiting. ``residency.manager`` is the one owner; it carries
out what the pool answers and reports back. Every change of state goes through ``TRANSITIONS``.

A version holds a slot and bytes from FETCHING until it is ABSENT or FAILED again, so that room
is promised once. Leases may be taken from FETCHING on; EVICTING takes none. What tenants may take
from each other is in ``cluster.adapters.residency.shares``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from cluster.adapters.residency.eviction import Evictable, choose_victims, in_order
from cluster.adapters.residency.failures import Failure, FailureMemory
from cluster.adapters.residency.pool_types import (
    SOMEBODY,
    AdapterEvent,
    Admitted,
    Candidate,
    Lease,
    MustEvict,
    MustWait,
)
from cluster.adapters.residency.shares import Amount, Holding, ShareGuard, TenantUse
from cluster.adapters.residency.slot_books import Resident, SlotBooks, expect
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.errors import AdapterCapacity, AdapterError, IntegrityError

TRANSITIONS: Mapping[AdapterState, frozenset[AdapterState]] = MappingProxyType(
    {
        AdapterState.ABSENT: frozenset({AdapterState.FETCHING}),
        AdapterState.FETCHING: frozenset({AdapterState.ON_HOST, AdapterState.FAILED}),
        AdapterState.ON_HOST: frozenset({AdapterState.LOADING, AdapterState.FAILED}),
        AdapterState.LOADING: frozenset({AdapterState.READY, AdapterState.FAILED}),
        AdapterState.READY: frozenset({AdapterState.EVICTING}),
        AdapterState.EVICTING: frozenset({AdapterState.ABSENT}),
        AdapterState.FAILED: frozenset({AdapterState.ABSENT}),  # when its time is over
    }
)


class AdapterPool:
    """State machine over slots and bytes.

    Args:
        failure_ttl_s: how long a failed load is remembered.
        share_window_s: how long a use counts for its tenant's share.
    """

    def __init__(
        self,
        slots: int,
        memory_bytes: int,
        failure_ttl_s: float,
        clock: Clock,
        *,
        share_window_s: float = 60.0,
    ) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self._use = TenantUse(share_window_s, clock)
        self._books = SlotBooks(slots, memory_bytes, clock)
        self._residents = self._books.residents
        self._failures = FailureMemory(failure_ttl_s, clock)
        self._leases: dict[int, tuple[TenantId, frozenset[AdapterDigest]]] = {}
        self._next_lease = 1
        self._pinned: set[AdapterDigest] = set()
        self._desired: frozenset[AdapterDigest] = frozenset()
        self.evictions = 0
        self._events: list[AdapterEvent] = []

    # Asking for room

    def admit(
        self, wanted: Sequence[Candidate], tenant: TenantId = SOMEBODY
    ) -> Admitted | MustEvict | MustWait:
        """Lease all of ``wanted`` at once, or none of them.

        The lease counts from now, also for those still on their way: nothing that a granted
        request needs can be evicted, and no two requests can each hold half.

        Raises:
            AdapterCapacity: they would not fit even if nothing else were in use.
            AdapterError: one of them failed a short while ago; its class as it was then.
        """
        answer = self._make_room(wanted, tenant)
        if not isinstance(answer, Admitted):
            return answer
        distinct = frozenset(c.digest for c in wanted)
        self._use.note(tenant, distinct)
        for digest in distinct:
            self._residents[digest].leases += 1
            self._residents[digest].uses += 1
            self._books.touch(self._residents[digest])
        lease = Lease(
            self._next_lease,
            tuple(c.digest for c in wanted),
            tuple(self._residents[c.digest].slot for c in wanted),
        )
        self._next_lease += 1
        self._leases[lease.id] = tenant, distinct
        return Admitted(lease, answer.start)

    def admit_prefetch(
        self, wanted: Candidate, *, gently: bool = False
    ) -> Admitted | MustEvict | MustWait:
        """Reserve room for one version without a lease.

        One of the desired placement evicts no other of it. ``gently`` evicts neither those nor
        anything that a tenant has used lately.

        Raises:
            AdapterCapacity, AdapterError: as ``admit``.
        """
        keep = self._desired if gently or wanted.digest in self._desired else frozenset()
        if gently:
            keep |= frozenset(d for d in self._residents if self._use.users(d))
        return self._make_room((wanted,), None, keep)

    def expect(self, tenant: TenantId) -> None:
        """A tenant is about to ask for adapters: it has a share from now on."""
        self._use.seen(tenant)

    def release(self, lease_id: int) -> bool:
        """End a lease; False when it had ended before."""
        tenant, digests = self._leases.pop(lease_id, (SOMEBODY, None))
        if digests is None:
            return False
        self._use.note(tenant, digests)
        for digest in digests:
            self._residents[digest].leases -= 1
        return True

    def plan_drain(
        self, wanted: Sequence[Candidate], tenant: TenantId = SOMEBODY
    ) -> frozenset[AdapterDigest]:
        """Versions in use which, once idle, would make room for ``wanted``: few leases first.

        Empty when pins leave no way.
        """
        short = self._books.shortage_after_leaving(wanted)
        order = sorted(
            self._in_use_or_idle(wanted),
            key=lambda e: (
                self._residents[e.digest].leases,
                e.desired,
                e.priority,
                e.last_use,
            ),
        )
        chosen = choose_victims(order, *short, self._guard(wanted, tenant))
        if chosen is None and self._is_too_wide(wanted, tenant):
            chosen = choose_victims(order, *short)
        return frozenset() if chosen is None else frozenset(e.digest for e in chosen)

    def is_within_share(self, wanted: Sequence[Candidate], tenant: TenantId) -> bool:
        """Whether a tenant would stay within its share with ``wanted``."""
        guard = self._guard(wanted, tenant)
        return guard is None or guard.within_share

    # Progress reported by the owner

    def fetched(self, digest: AdapterDigest) -> None:
        """Its tensors are in host memory: FETCHING -> ON_HOST."""
        self._move(digest, AdapterState.ON_HOST)

    def writing(self, digest: AdapterDigest) -> Slot:
        """Its tensors are being written to its slot: ON_HOST -> LOADING."""
        self._move(digest, AdapterState.LOADING)
        return self._residents[digest].slot

    def loaded(self, digest: AdapterDigest, nbytes: int) -> None:
        """Its slot is complete and takes ``nbytes``: LOADING -> READY.

        Raises:
            AdapterCapacity: it takes more than was promised and the budget has no more; the
                state is unchanged.
        """
        resident = self._residents[digest]
        total = self._books.bytes_used - resident.nbytes + nbytes
        if total > self.memory_bytes:
            raise AdapterCapacity(
                f"adapter {resident.candidate.alias}: expected at most {resident.nbytes} device "
                f"bytes, found {nbytes}: {total} of {self.memory_bytes} in use"
            )
        self._books.resize(digest, nbytes)
        self._move(digest, AdapterState.READY)

    def failed(self, digest: AdapterDigest, error: AdapterError) -> None:
        """Its load failed; the slot is free again and the reason is remembered until the TTL ends.

        Raises:
            IntegrityError: a lease is still held on it.
        """
        resident = self._residents[digest]
        if resident.leases:
            raise IntegrityError(
                f"adapter {digest} failed with {resident.leases} leases held, expected 0"
            )
        self._move(digest, AdapterState.FAILED)
        self._drop(digest)
        self._failures.remember(digest, resident.candidate.alias, error)

    def evict(self, digest: AdapterDigest) -> bool:
        """Begin to evict: READY -> EVICTING. False when it is in use, pinned or not READY."""
        resident = self._residents.get(digest)
        if resident is None or not self._is_idle(digest, resident):
            return False
        self._begin_evict(digest)
        return True

    def evicted(self, digest: AdapterDigest) -> None:
        """Its slot is cleared and free: EVICTING -> ABSENT."""
        self._move(digest, AdapterState.ABSENT)
        self._drop(digest)

    # Wishes

    def pin(self, digest: AdapterDigest) -> None:
        """Never evict this version, whether it is here yet or not."""
        self._pinned.add(digest)

    def unpin(self, digest: AdapterDigest) -> None:
        """Undo ``pin``."""
        self._pinned.discard(digest)

    def set_desired(self, digests: Iterable[AdapterDigest]) -> None:
        """The placement that eviction should spare."""
        self._desired = frozenset(digests)

    # Reading

    @property
    def bytes_used(self) -> int:
        """Device bytes promised or taken."""
        return self._books.bytes_used

    @property
    def desired(self) -> frozenset[AdapterDigest]:
        """The placement last set."""
        return self._desired

    @property
    def leases(self) -> int:
        """Leases held."""
        return len(self._leases)

    def state(self, digest: AdapterDigest) -> AdapterState:
        """Where a version is; a failure whose time is over reads as ABSENT."""
        if digest in self._residents:
            return self._residents[digest].state
        failed = self._failure(digest) is not None
        return AdapterState.FAILED if failed else AdapterState.ABSENT

    def holds(self, wanted: Sequence[Candidate]) -> bool:
        """Whether all of ``wanted`` have slots already, so that admitting them takes no room."""
        return all(
            c.digest in self._residents
            and self._residents[c.digest].state is not AdapterState.EVICTING
            for c in wanted
        )

    def slot_of(self, digest: AdapterDigest) -> Slot | None:
        """Its slot, from FETCHING to EVICTING."""
        resident = self._residents.get(digest)
        return None if resident is None else resident.slot

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Everything that holds a slot, by slot."""
        return tuple(
            ResidentAdapter(
                digest=digest,
                alias=r.candidate.alias,
                state=r.state,
                nbytes=r.nbytes,
                rank=r.candidate.rank,
                leases=r.leases,
                pinned=digest in self._pinned,
                last_used=r.last_used,
            )
            for digest, r in sorted(self._residents.items(), key=lambda item: item[1].slot)
        )

    def failures(self) -> Mapping[AdapterDigest, Failure]:
        """Failures still remembered."""
        for digest in tuple(self._failures.all()):
            self._failure(digest)
        return self._failures.all()

    def drain_events(self) -> tuple[AdapterEvent, ...]:
        """Changes since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    def check_integrity(self) -> None:
        """Verify that the books balance.

        Raises:
            IntegrityError: with both numbers.
        """
        held = Counter(digest for _, digests in self._leases.values() for digest in digests)
        self._books.check_integrity()
        for digest, resident in self._residents.items():
            expect(f"leases of {digest}", resident.leases, held[digest])
            if resident.state is AdapterState.EVICTING:
                expect(f"leases of {digest}, being evicted", resident.leases, 0)
        expect("leased but not here", sorted(held.keys() - self._residents.keys()), [])
        expect("failed and here", sorted(self._failures.all().keys() & self._residents.keys()), [])

    # Inside

    def _make_room(
        self,
        wanted: Sequence[Candidate],
        tenant: TenantId | None,
        keep: frozenset[AdapterDigest] = frozenset(),
    ) -> Admitted | MustEvict | MustWait:
        for candidate in wanted:
            failure = self._failure(candidate.digest)
            if failure is not None:
                raise failure.error()
        self._refuse_impossible(wanted)
        exclude = {c.digest for c in wanted}
        leaving = [d for d in exclude if self.state(d) is AdapterState.EVICTING]
        slots_short, bytes_short = self._books.shortage(wanted)
        if slots_short <= 0 and bytes_short <= 0 and not leaving:
            absent = {c.digest: c for c in wanted if c.digest not in self._residents}
            for candidate in absent.values():
                self._reserve(candidate)
            return Admitted(None, tuple(absent))
        short = self._books.shortage_after_leaving(wanted)
        if max(short) <= 0:
            return MustEvict(())
        idle = in_order(
            self._evictable(digest)
            for digest, r in self._residents.items()
            if digest not in exclude and digest not in keep and self._is_idle(digest, r)
        )
        guard = None if tenant is None else self._guard(wanted, tenant)
        victims = choose_victims(idle, *short, guard)
        if victims is None and tenant is not None and self._is_too_wide(wanted, tenant):
            victims = choose_victims(idle, *short)
        if victims is None:
            return MustWait()
        for victim in victims:
            self._begin_evict(victim.digest)
        return MustEvict(tuple(victim.digest for victim in victims))

    def _is_too_wide(self, wanted: Sequence[Candidate], tenant: TenantId) -> bool:
        """Whether it is more than a share, and no wait for the tenant's own would help."""
        guard = self._guard(wanted, tenant)
        if guard is None or not guard.too_wide:
            return False
        short = self._books.shortage_after_leaving(wanted)
        return choose_victims(self._in_use_or_idle(wanted), *short, guard) is None

    def _in_use_or_idle(self, wanted: Sequence[Candidate]) -> list[Evictable]:
        """All but those wanted, pinned or leaving."""
        exclude = {c.digest for c in wanted} | self._pinned
        return [
            self._evictable(digest)
            for digest, r in self._residents.items()
            if digest not in exclude and r.state is not AdapterState.EVICTING
        ]

    def _guard(self, wanted: Sequence[Candidate], tenant: TenantId) -> ShareGuard | None:
        tenants = self._use.tenants()
        if tenants <= {tenant}:
            return None
        distinct = {c.digest: c.nbytes for c in wanted}
        absent = [n for d, n in distinct.items() if d not in self._residents]
        pinned = [r.nbytes for d, r in self._residents.items() if d in self._pinned]
        return ShareGuard(
            {
                digest: self._holding(digest)
                for digest in self._residents
                if digest not in self._pinned
            },
            Amount(self.slots, self.memory_bytes) - Amount(len(pinned), sum(pinned)),
            tenants,
            tenant,
            Amount(len(absent), sum(absent)),
            Amount(len(distinct), sum(distinct.values())),
        )

    def _holding(self, digest: AdapterDigest) -> Holding:
        return Holding(self._residents[digest].nbytes, self._use.users(digest))

    def _evictable(self, digest: AdapterDigest) -> Evictable:
        resident = self._residents[digest]
        return Evictable(
            digest,
            self._holding(digest),
            digest in self._desired,
            resident.priority,
            resident.last_use,
        )

    def _refuse_impossible(self, wanted: Sequence[Candidate]) -> None:
        sizes = {c.digest: c.nbytes for c in wanted}
        sizes |= {d: self._residents[d].nbytes for d in self._pinned if d in self._residents}
        if len(sizes) > self.slots:
            raise AdapterCapacity(
                f"{len(sizes)} adapters, pinned ones included, do not fit in {self.slots} slots"
            )
        if sum(sizes.values()) > self.memory_bytes:
            raise AdapterCapacity(
                f"adapters of {sum(sizes.values())} bytes, pinned ones included, do not fit in "
                f"{self.memory_bytes}"
            )

    def _reserve(self, candidate: Candidate) -> None:
        self._books.reserve(candidate)
        self._move(candidate.digest, AdapterState.FETCHING)

    def _begin_evict(self, digest: AdapterDigest) -> None:
        self._books.age(digest)
        self.evictions += 1
        self._move(digest, AdapterState.EVICTING)

    def _drop(self, digest: AdapterDigest) -> None:
        self._books.drop(digest)
        self._use.forget(digest)

    def _is_idle(self, digest: AdapterDigest, resident: Resident) -> bool:
        return (
            resident.state is AdapterState.READY
            and resident.leases == 0
            and digest not in self._pinned
        )

    def _move(self, digest: AdapterDigest, after: AdapterState) -> None:
        resident = self._residents.get(digest)
        if resident is None:
            raise IntegrityError(f"adapter {digest}: not here, so it cannot become {after}")
        self._record(digest, resident.candidate.alias, resident.state, after, resident.slot)
        resident.state = after

    def _record(
        self,
        digest: AdapterDigest,
        alias: str,
        before: AdapterState,
        after: AdapterState,
        slot: Slot | None,
    ) -> None:
        if after not in TRANSITIONS[before]:
            raise IntegrityError(f"adapter {digest}: no transition from {before} to {after}")
        self._events.append(AdapterEvent(digest, alias, before, after, slot))

    def _failure(self, digest: AdapterDigest) -> Failure | None:
        forgotten = self._failures.expire(digest)
        if forgotten is not None:
            self._record(digest, forgotten.alias, AdapterState.FAILED, AdapterState.ABSENT, None)
        return self._failures.get(digest)
