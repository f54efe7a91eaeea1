"""Books of one replica's adapter slots: who is where, who is in use, who goes next.

Pure: no tensors, no tasks, no waiting. ``cluster.adapters.manager`` is the one owner; it carries
out what the pool answers and reports back. Every change of state goes through ``TRANSITIONS``.

A generation holds a slot and bytes from FETCHING until it is ABSENT or FAILED again, so that room
is promised once. Leases may be taken from FETCHING on; EVICTING takes none.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cluster.adapters.eviction import Evictable, choose_victims
from cluster.adapters.pool_types import (
    AdapterEvent,
    Admitted,
    Candidate,
    Failure,
    Lease,
    MustEvict,
    MustWait,
)
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, Slot
from cluster.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterLoadFailed,
    AdapterUnsupported,
    IntegrityError,
)

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

_ERRORS: Mapping[str, type[AdapterError]] = {
    cls.code: cls for cls in (AdapterError, AdapterUnsupported, AdapterLoadFailed, AdapterCapacity)
}


@dataclass(slots=True)
class _Resident:
    candidate: Candidate
    slot: Slot
    state: AdapterState
    nbytes: int
    leases: int = 0
    priority: int = 0
    last_use: int = 0
    last_used: float = 0.0


class AdapterPool:
    """State machine over slots and bytes."""

    def __init__(self, slots: int, memory_bytes: int, failure_ttl_s: float, clock: Clock) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self._failure_ttl_s = failure_ttl_s
        self._clock = clock
        self._free: list[int] = list(range(slots))
        self._bytes_used = 0
        self._residents: dict[AdapterDigest, _Resident] = {}
        self._failures: dict[AdapterDigest, Failure] = {}
        self._leases: dict[int, frozenset[AdapterDigest]] = {}
        self._next_lease = 1
        self._pinned: set[AdapterDigest] = set()
        self._desired: frozenset[AdapterDigest] = frozenset()
        self._inflation = 0
        self._uses = 0
        self._events: list[AdapterEvent] = []

    # Asking for room

    def admit(self, wanted: Sequence[Candidate]) -> Admitted | MustEvict | MustWait:
        """Lease all of ``wanted`` at once, or none of them.

        The lease counts from now, also for those still on their way: nothing that a granted
        request needs can be evicted, and no two requests can each hold half.

        Raises:
            AdapterCapacity: they would not fit even if nothing else were in use.
            AdapterError: one of them failed a short while ago; its class as it was then.
        """
        answer = self._make_room(wanted, keep=frozenset())
        if not isinstance(answer, Admitted):
            return answer
        distinct = frozenset(c.digest for c in wanted)
        for digest in distinct:
            self._residents[digest].leases += 1
            self._touch(self._residents[digest])
        lease = Lease(
            self._next_lease,
            tuple(c.digest for c in wanted),
            tuple(self._residents[c.digest].slot for c in wanted),
        )
        self._next_lease += 1
        self._leases[lease.id] = distinct
        return Admitted(lease, answer.start)

    def admit_prefetch(
        self, wanted: Candidate, *, spare_desired: bool
    ) -> Admitted | MustEvict | MustWait:
        """Reserve room for one generation without a lease.

        ``spare_desired`` evicts none of the desired placement for it.

        Raises:
            AdapterCapacity, AdapterError: as ``admit``.
        """
        return self._make_room((wanted,), keep=self._desired if spare_desired else frozenset())

    def release(self, lease_id: int) -> bool:
        """End a lease; False when it had ended before."""
        digests = self._leases.pop(lease_id, None)
        if digests is None:
            return False
        for digest in digests:
            self._residents[digest].leases -= 1
        return True

    def plan_drain(self, wanted: Sequence[Candidate]) -> frozenset[AdapterDigest]:
        """Generations in use which, once idle, would make room for ``wanted``: few leases first.

        Empty when pins leave no way.
        """
        slots_short, bytes_short = self._shortage(wanted)
        exclude = {c.digest for c in wanted}
        in_use = sorted(
            (
                r
                for digest, r in self._residents.items()
                if digest not in exclude and digest not in self._pinned
            ),
            key=lambda r: (
                r.state is not AdapterState.EVICTING,
                r.leases,
                r.candidate.digest in self._desired,
                r.priority,
                r.last_use,
            ),
        )
        chosen: set[AdapterDigest] = set()
        for resident in in_use:
            if slots_short <= 0 and bytes_short <= 0:
                return frozenset(chosen)
            chosen.add(resident.candidate.digest)
            slots_short -= 1
            bytes_short -= resident.nbytes
        return frozenset(chosen) if slots_short <= 0 and bytes_short <= 0 else frozenset()

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
        total = self._bytes_used - resident.nbytes + nbytes
        if total > self.memory_bytes:
            raise AdapterCapacity(
                f"adapter {resident.candidate.alias}: expected at most {resident.nbytes} device "
                f"bytes, found {nbytes}: {total} of {self.memory_bytes} in use"
            )
        self._bytes_used = total
        resident.nbytes = nbytes
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
        self._failures[digest] = Failure(
            resident.candidate.alias,
            error.code,
            error.message,
            self._clock.monotonic() + self._failure_ttl_s,
        )

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
        """Never evict this generation, whether it is here yet or not."""
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
        return self._bytes_used

    @property
    def desired(self) -> frozenset[AdapterDigest]:
        """The placement last set."""
        return self._desired

    @property
    def leases(self) -> int:
        """Leases held."""
        return len(self._leases)

    def state(self, digest: AdapterDigest) -> AdapterState:
        """Where a generation is; a failure whose time is over reads as ABSENT."""
        if digest in self._residents:
            return self._residents[digest].state
        self._forget_old_failure(digest)
        return AdapterState.FAILED if digest in self._failures else AdapterState.ABSENT

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
        for digest in tuple(self._failures):
            self._forget_old_failure(digest)
        return MappingProxyType(self._failures)

    def drain_events(self) -> tuple[AdapterEvent, ...]:
        """Changes since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    def check_integrity(self) -> None:
        """Verify that the books balance.

        Raises:
            IntegrityError: with both numbers.
        """
        held = Counter(digest for digests in self._leases.values() for digest in digests)
        slots = sorted([*self._free, *(r.slot for r in self._residents.values())])
        _expect("slots, free and held", slots, list(range(self.slots)))
        _expect("bytes", sum(r.nbytes for r in self._residents.values()), self._bytes_used)
        if self._bytes_used > self.memory_bytes:
            raise IntegrityError(
                f"adapter pool: {self._bytes_used} bytes used of {self.memory_bytes}"
            )
        for digest, resident in self._residents.items():
            _expect(f"leases of {digest}", resident.leases, held[digest])
            if resident.state is AdapterState.EVICTING:
                _expect(f"leases of {digest}, being evicted", resident.leases, 0)
        _expect("leased but not here", sorted(held.keys() - self._residents.keys()), [])
        _expect("failed and here", sorted(self._failures.keys() & self._residents.keys()), [])

    # Inside

    def _make_room(
        self, wanted: Sequence[Candidate], keep: frozenset[AdapterDigest]
    ) -> Admitted | MustEvict | MustWait:
        for candidate in wanted:
            self._raise_failure(candidate.digest)
        self._refuse_impossible(wanted)
        exclude = {c.digest for c in wanted}
        leaving = [d for d in exclude if self.state(d) is AdapterState.EVICTING]
        slots_short, bytes_short = self._shortage(wanted)
        if slots_short <= 0 and bytes_short <= 0 and not leaving:
            absent = {c.digest: c for c in wanted if c.digest not in self._residents}
            for candidate in absent.values():
                self._reserve(candidate)
            return Admitted(None, tuple(absent))
        on_the_way = [r for r in self._residents.values() if r.state is AdapterState.EVICTING]
        slots_short -= len(on_the_way)
        bytes_short -= sum(r.nbytes for r in on_the_way)
        if slots_short <= 0 and bytes_short <= 0:
            return MustEvict(())
        idle = (
            Evictable(d, r.nbytes, d in self._desired, r.priority, r.last_use)
            for d, r in self._residents.items()
            if d not in exclude and d not in keep and self._is_idle(d, r)
        )
        victims = choose_victims(idle, slots_short, bytes_short)
        if victims is None:
            return MustWait()
        for victim in victims:
            self._begin_evict(victim.digest)
        return MustEvict(tuple(victim.digest for victim in victims))

    def _shortage(self, wanted: Sequence[Candidate]) -> tuple[int, int]:
        """Slots and bytes missing for those of ``wanted`` that hold none or are leaving."""
        new = {
            c.digest: c.nbytes
            for c in wanted
            if c.digest not in self._residents
            or self._residents[c.digest].state is AdapterState.EVICTING
        }
        room = self.memory_bytes - self._bytes_used
        return len(new) - len(self._free), sum(new.values()) - room

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
        slot = Slot(heapq.heappop(self._free))
        self._bytes_used += candidate.nbytes
        self._residents[candidate.digest] = resident = _Resident(
            candidate, slot, AdapterState.ABSENT, candidate.nbytes
        )
        self._touch(resident)
        self._move(candidate.digest, AdapterState.FETCHING)

    def _begin_evict(self, digest: AdapterDigest) -> None:
        self._inflation = max(self._inflation, self._residents[digest].priority)
        self._move(digest, AdapterState.EVICTING)

    def _drop(self, digest: AdapterDigest) -> None:
        resident = self._residents.pop(digest)
        self._bytes_used -= resident.nbytes
        heapq.heappush(self._free, resident.slot)

    def _touch(self, resident: _Resident) -> None:
        self._uses += 1
        resident.last_use = self._uses
        resident.last_used = self._clock.wall()
        resident.priority = self._inflation + resident.nbytes

    def _is_idle(self, digest: AdapterDigest, resident: _Resident) -> bool:
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

    def _raise_failure(self, digest: AdapterDigest) -> None:
        self._forget_old_failure(digest)
        failure = self._failures.get(digest)
        if failure is not None:
            raise _ERRORS.get(failure.code, AdapterLoadFailed)(failure.message)

    def _forget_old_failure(self, digest: AdapterDigest) -> None:
        failure = self._failures.get(digest)
        if failure is not None and self._clock.monotonic() >= failure.retry_at:
            del self._failures[digest]
            self._record(digest, failure.alias, AdapterState.FAILED, AdapterState.ABSENT, None)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise IntegrityError(f"adapter pool: {what}: found {found}, expected {expected}")
