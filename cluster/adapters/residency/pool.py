"""Decides which adapters get one replica's slots, and tracks the state of each.

Pure: no tensors, no tasks, no waiting. ``residency.manager`` is the one owner; it carries
out what the pool answers and reports back. Every change of state goes through ``TRANSITIONS``.

A version has a slot and bytes from FETCHING until it is ABSENT or FAILED again, so that room
is promised once. Leases may be taken from FETCHING on; EVICTING takes none.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from cluster.adapters.residency.eviction import EvictionPolicy
from cluster.adapters.residency.failures import FailureMemory, LoadFailure
from cluster.adapters.residency.ledger import AdapterLedger
from cluster.adapters.residency.residency_types import (
    ANY_TENANT,
    AdapterEvent,
    Admitted,
    Lease,
    MustEvict,
    MustWait,
    SizedVersion,
)
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.errors import AdapterCapacity, AdapterError, IntegrityError
from cluster.mean_age import MeanAge
from cluster.tenancy.shares import NO_WEIGHTS

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
        weights: of tenants, as they are now; 1 where absent.
    """

    def __init__(
        self,
        slots: int,
        memory_bytes: int,
        failure_ttl_s: float,
        clock: Clock,
        *,
        share_window_s: float = 60.0,
        weights: Mapping[TenantId, float] = NO_WEIGHTS,
    ) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self._ledger = AdapterLedger(
            "adapter pool", memory_bytes, slots, share_window_s, clock, weights
        )
        self._policy = EvictionPolicy(self._ledger)
        self._residents = self._ledger.residents
        self._failures = FailureMemory(failure_ttl_s, clock)
        self._events: list[AdapterEvent] = []
        self._ages = MeanAge()  # of those that made room

    # Asking for room

    def admit(
        self, wanted: Sequence[SizedVersion], tenant: TenantId = ANY_TENANT
    ) -> Admitted | MustEvict | MustWait:
        """Lease all of ``wanted`` at once, or none of them.

        The lease counts from now, also for versions still on their way: nothing that a granted
        request needs can be evicted, and no two requests can each have half.

        Raises:
            AdapterCapacity: they would not fit even if nothing else were in use.
            AdapterError: one of them failed a short while ago; its class as it was then.
        """
        answer = self._make_room(wanted, tenant)
        if not isinstance(answer, Admitted):
            return answer
        return Admitted(self._lease(wanted, tenant), answer.start)

    def lease_ready(
        self, wanted: Sequence[SizedVersion], tenant: TenantId = ANY_TENANT
    ) -> Lease | None:
        """Lease all of ``wanted`` at once if all are READY, which takes no room; else None."""
        residents, ready = self._residents, AdapterState.READY
        for version in wanted:
            resident = residents.get(version.digest)
            if resident is None or resident.state is not ready:
                return None
        return self._lease(wanted, tenant)

    def admit_prefetch(
        self, wanted: SizedVersion, *, gently: bool = False
    ) -> Admitted | MustEvict | MustWait:
        """Reserve room for one version without a lease.

        A version of the desired placement evicts no other of it. ``gently`` evicts neither those
        nor a version that a tenant used recently.

        Raises:
            AdapterCapacity, AdapterError: as ``admit``.
        """
        desired = self._ledger.desired
        spared = desired if gently or wanted.digest in desired else frozenset()
        if gently:
            spared |= self._ledger.recently_used()
        return self._make_room((wanted,), None, spared)

    def note_tenant(self, tenant: TenantId) -> None:
        """Give a tenant a share from now on: it is about to ask for adapters."""
        self._ledger.recent.note_tenant(tenant)

    def release_lease(self, lease_id: int) -> bool:
        """End a lease; returns False if it had ended before."""
        return self._ledger.end_claim(lease_id)

    def choose_to_close(
        self, wanted: Sequence[SizedVersion], tenant: TenantId = ANY_TENANT
    ) -> frozenset[AdapterDigest]:
        """Choose versions in use which, once idle, would make room for ``wanted``.

        Those with few leases come first. Empty if pins leave no way.
        """
        return self._policy.choose_to_close(wanted, tenant)

    def tenants_within_share(
        self, asked: Mapping[TenantId, Sequence[SizedVersion]]
    ) -> frozenset[TenantId]:
        """Return the tenants that would stay within their shares with what each asks for."""
        return self._policy.tenants_within_share(asked)

    def tenants(self) -> set[TenantId]:
        """Return the tenants that used the pool within the window, or have leases."""
        return self._ledger.tenants()

    # Progress reported by the owner

    def fetched(self, digest: AdapterDigest) -> None:
        """Record that its tensors are in host memory: FETCHING -> ON_HOST."""
        self._move(digest, AdapterState.ON_HOST)

    def writing(self, digest: AdapterDigest) -> Slot:
        """Record that its tensors are being written: ON_HOST -> LOADING. Returns its slot."""
        self._move(digest, AdapterState.LOADING)
        return self._residents[digest].slot

    def loaded(self, digest: AdapterDigest, nbytes: int) -> None:
        """Record that its slot is complete and takes ``nbytes``: LOADING -> READY.

        Raises:
            AdapterCapacity: it takes more than was promised and the budget has no more; the
                state is unchanged.
        """
        resident = self._residents[digest]
        total = self._ledger.bytes_used - resident.nbytes + nbytes
        if total > self.memory_bytes:
            raise AdapterCapacity(
                f"adapter {resident.version.alias}: expected at most {resident.nbytes} device "
                f"bytes, found {nbytes}: {total} of {self.memory_bytes} in use"
            )
        self._ledger.resize(digest, nbytes)
        self._move(digest, AdapterState.READY)

    def failed(self, digest: AdapterDigest, error: AdapterError) -> None:
        """Record that its load failed: its slot is free, the reason is remembered until the TTL.

        Raises:
            IntegrityError: a lease on it is open.
        """
        resident = self._residents[digest]
        if resident.claims:
            raise IntegrityError(
                f"adapter {digest} failed with {resident.claims} leases open, expected 0"
            )
        self._move(digest, AdapterState.FAILED)
        self._ledger.remove(digest)
        self._failures.remember(digest, resident.version.alias, error)

    def evict(self, digest: AdapterDigest) -> bool:
        """Begin to evict: READY -> EVICTING. Returns False if it is in use, pinned or not READY."""
        if digest not in self._residents or not self._ledger.is_idle(digest):
            return False
        self._begin_eviction(digest)
        return True

    def evicted(self, digest: AdapterDigest) -> None:
        """Record that its slot is cleared and free: EVICTING -> ABSENT."""
        self._move(digest, AdapterState.ABSENT)
        self._ledger.remove(digest)

    # Pins and placement

    def pin_adapter(self, digest: AdapterDigest) -> None:
        """Prevent the eviction of a version, whether it is here yet or not."""
        self._ledger.pin_adapter(digest)

    def unpin_adapter(self, digest: AdapterDigest) -> None:
        """Undo ``pin_adapter``."""
        self._ledger.unpin_adapter(digest)

    def set_placement(
        self, desired: Iterable[AdapterDigest], pinned: Iterable[AdapterDigest] = ()
    ) -> None:
        """Set the placement that eviction spares while it can, and its part that is pinned."""
        self._ledger.set_placement(desired, pinned)

    def forget_wishes(self, digest: AdapterDigest) -> None:
        """Take a version out of the pins and the placement."""
        self._ledger.forget_wishes(digest)

    # Reading

    @property
    def bytes_used(self) -> int:
        """Device bytes promised or taken."""
        return self._ledger.bytes_used

    @property
    def desired(self) -> frozenset[AdapterDigest]:
        """The placement last set."""
        return self._ledger.desired

    @property
    def leases(self) -> int:
        """Number of open leases."""
        return self._ledger.claims

    @property
    def evictions(self) -> int:
        """Cumulative number of evictions begun."""
        return self._ledger.evictions

    @property
    def eviction_age_s(self) -> float:
        """Mean time from a version's last use until it made room for others; 0 before any."""
        return self._ages.seconds

    def state(self, digest: AdapterDigest) -> AdapterState:
        """Return the state of a version; ABSENT once the time of a failure is over."""
        if digest in self._residents:
            return self._residents[digest].state
        failed = self._failure(digest) is not None
        return AdapterState.FAILED if failed else AdapterState.ABSENT

    def have_slots(self, wanted: Sequence[SizedVersion]) -> bool:
        """Return whether all of ``wanted`` have slots, so that admitting them takes no room."""
        return all(
            v.digest in self._residents
            and self._residents[v.digest].state is not AdapterState.EVICTING
            for v in wanted
        )

    def slot_of(self, digest: AdapterDigest) -> Slot | None:
        """Return a version's slot, or None if it has none; from FETCHING to EVICTING it has one."""
        resident = self._residents.get(digest)
        return None if resident is None else resident.slot

    def version_of(self, digest: AdapterDigest) -> SizedVersion:
        """Return a version that has a slot, as it was admitted."""
        return self._residents[digest].version

    def residents(self, before: Sequence[ResidentAdapter] = ()) -> tuple[ResidentAdapter, ...]:
        """Return every version that has a slot, by slot; see ``AdapterLedger`` for ``before``."""
        return self._ledger.resident_adapters(before)

    @property
    def loading_bytes(self) -> int:
        """Bytes of the versions on their way to a slot."""
        settled = (AdapterState.READY, AdapterState.EVICTING)
        return sum([r.nbytes for r in self._residents.values() if r.state not in settled])

    def failures(self) -> Mapping[AdapterDigest, LoadFailure]:
        """Return the failures that are still remembered."""
        for digest in tuple(self._failures.all()):
            self._failure(digest)
        return self._failures.all()

    def take_events(self) -> tuple[AdapterEvent, ...]:
        """Return the changes since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    def check_integrity(self) -> None:
        """Verify that slots, bytes, leases and failures agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._ledger.check_integrity()
        both = sorted(self._failures.all().keys() & self._residents.keys())
        self._ledger.expect("failed and here", both, [])

    # Inside

    def _lease(self, wanted: Sequence[SizedVersion], tenant: TenantId) -> Lease:
        digests = tuple([version.digest for version in wanted])
        distinct = dict.fromkeys(digests)  # in an order
        self._ledger.note_use(distinct, tenant)
        return Lease(
            self._ledger.claim(frozenset(distinct), tenant),
            digests,
            tuple([self._residents[digest].slot for digest in digests]),
        )

    def _make_room(
        self,
        wanted: Sequence[SizedVersion],
        tenant: TenantId | None,
        spared: frozenset[AdapterDigest] = frozenset(),
    ) -> Admitted | MustEvict | MustWait:
        for version in wanted:
            failure = self._failure(version.digest)
            if failure is not None:
                raise failure.error()
        self._refuse_impossible(wanted)
        leaving = any(self.state(v.digest) is AdapterState.EVICTING for v in wanted)
        if max(self._ledger.shortage(wanted)) <= 0 and not leaving:
            absent = {v.digest: v for v in wanted if v.digest not in self._residents}
            for version in absent.values():
                self._reserve(version)
            return Admitted(None, tuple(absent))
        if max(self._ledger.shortage_after_evictions(wanted)) <= 0:
            return MustEvict(())
        victims = self._policy.choose_evictions(wanted, tenant, spared, can_wait=True)
        if victims is None:
            return MustWait()
        for digest in victims:
            self._ages.observe(self._ledger.unused_for(digest))
            self._begin_eviction(digest)
        return MustEvict(victims)

    def _refuse_impossible(self, wanted: Sequence[SizedVersion]) -> None:
        pinned = {d: self._residents[d] for d in self._ledger.pinned if d in self._residents}
        sizes = {v.digest: v.nbytes for v in wanted}
        sizes.update((d, r.nbytes) for d, r in pinned.items())
        if len(sizes) <= self.slots and sum(sizes.values()) <= self.memory_bytes:
            return
        aliases = ", ".join(sorted(resident.version.alias for resident in pinned.values()))
        including = f", pinned {aliases} included," if pinned else ""
        if len(sizes) > self.slots:
            raise AdapterCapacity(
                f"{len(sizes)} adapters{including} do not fit in {self.slots} slots"
            )
        raise AdapterCapacity(
            f"adapters of {sum(sizes.values())} bytes{including} do not fit in {self.memory_bytes}"
        )

    def _reserve(self, version: SizedVersion) -> None:
        slot = self._ledger.reserve(version).slot
        absent, fetching = AdapterState.ABSENT, AdapterState.FETCHING
        self._record(version.digest, version.alias, absent, fetching, slot)

    def _begin_eviction(self, digest: AdapterDigest) -> None:
        self._ledger.count_eviction(digest)
        self._move(digest, AdapterState.EVICTING)

    def _move(self, digest: AdapterDigest, after: AdapterState) -> None:
        resident = self._residents.get(digest)
        if resident is None:
            raise IntegrityError(f"adapter {digest}: not here, so it cannot become {after}")
        self._record(digest, resident.version.alias, resident.state, after, resident.slot)
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

    def _failure(self, digest: AdapterDigest) -> LoadFailure | None:
        expired = self._failures.expire(digest)
        if expired is not None:
            self._record(digest, expired.alias, AdapterState.FAILED, AdapterState.ABSENT, None)
        return self._failures.get(digest)
