"""Decides which waiting request is granted its adapters next: no tasks, no loads.

A tenant's requests that need room are served in order of arrival. Between tenants, requests that
stay within their tenants' shares go first (``residency.shares``): a flood over many adapters waits
for its own room. This starves no tenant: one that is passed over has its share already, and those
before it stop being within theirs as they are served.

A request whose adapters all have slots may overtake the first request that waits for room. Once
``max_overtakes`` requests have overtaken it or released adapters since it became first, enough
adapters are closed to new requests until they are idle. ``CloseToNew`` names them, so that requests
that have not begun can give their leases back. So the first request waits for at most
``max_overtakes`` others, and then for what is being decoded over the adapters that are used least:
it cannot starve, and no two requests wait for each other.
"""

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.residency_types import (
    ANY_TENANT,
    Admitted,
    Lease,
    MustEvict,
    MustWait,
    SizedVersion,
)
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterCapacity, AdapterError, IntegrityError


@dataclass(slots=True, eq=False)
class Waiter:
    """One ``acquire`` or prefetch, from its arrival until it is answered."""

    wanted: tuple[SizedVersion, ...]
    future: asyncio.Future[Lease | None]
    tenant: TenantId = ANY_TENANT
    gently: bool = False  # of a prefetch: evicts nothing that a tenant used recently
    lease: Lease | None = None
    awaiting: set[AdapterDigest] = field(default_factory=set)  # admitted, not READY yet
    tried: set[AdapterDigest] = field(default_factory=set)  # reading ahead has begun or failed
    copies: list[int] = field(default_factory=list)  # pins of copies in the host tier
    overtaken: int = 0

    def settle(self, error: Exception | None = None) -> None:
        """Answer it, unless it has been answered or cancelled."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.lease)
        else:
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class StartLoad:
    """A version is FETCHING and must be loaded."""

    digest: AdapterDigest
    tenant: TenantId | None  # None for a prefetch


@dataclass(frozen=True, slots=True)
class StartEviction:
    """A version is EVICTING and its slot must be cleared."""

    digest: AdapterDigest


@dataclass(frozen=True, slots=True)
class UnpinCopies:
    """Pins of copies in the host tier are no longer needed by a request."""

    pins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CloseToNew:
    """These versions take no new requests until they are idle: all of them, not the new ones."""

    digests: frozenset[AdapterDigest]


QueueEvent = StartLoad | StartEviction | UnpinCopies | CloseToNew


class WaitQueue:
    """Holds requests and prefetches until they are answered.

    The methods answer waiters themselves and return the rest of what must be done, in order.
    """

    def __init__(self, pool: AdapterPool, max_overtakes: int) -> None:
        self._pool = pool
        self._max_overtakes = max_overtakes
        self._requests: list[Waiter] = []  # want a lease, in order of arrival
        self._prefetches: list[Waiter] = []  # want room without a lease; served after requests
        self._admitted: list[Waiter] = []  # have room, await their loads
        self._head: Waiter | None = None  # the first that waits for room
        self._closed_to_new: frozenset[AdapterDigest] = frozenset()

    @property
    def waiting(self) -> int:
        """Requests that wait for room or for a load."""
        return len(self._requests) + sum(waiter.lease is not None for waiter in self._admitted)

    @property
    def is_empty(self) -> bool:
        """Report whether no request and no prefetch waits."""
        return not (self._requests or self._prefetches)

    def tenants(self) -> set[TenantId]:
        """Return the tenants whose requests wait for room."""
        return {waiter.tenant for waiter in self._requests}

    def wanted(self) -> Iterator[SizedVersion]:
        """Yield the versions that requests and prefetches without room wait for."""
        for waiter in (*self._requests, *self._prefetches):
            yield from waiter.wanted

    def add_request(self, waiter: Waiter) -> None:
        """Append a request for a lease; call ``serve_waiters`` next."""
        self._requests.append(waiter)

    def add_prefetch(self, waiter: Waiter) -> None:
        """Append a prefetch of one version; call ``serve_waiters`` next."""
        self._prefetches.append(waiter)

    def has_prefetch(self, digest: AdapterDigest) -> bool:
        """Return whether a prefetch of a version waits for its turn."""
        return any(waiter.wanted[0].digest == digest for waiter in self._prefetches)

    def serve_waiters(self) -> list[QueueEvent]:
        """Grant whatever can be granted now; call it after every change."""
        events: list[QueueEvent] = []
        self._head = self._grant_leases(events) if self._requests else None
        if self._head is None:
            self._closed_to_new = frozenset()
            self._start_prefetches(events)
        return events

    def requests_in_turn(self) -> list[Waiter]:
        """Return the requests without a lease in the order in which they get room."""
        queue, pool = self._requests, self._pool
        if len(queue) < 2 or len({waiter.tenant for waiter in queue}) < 2:
            return list(queue)
        short = [waiter for waiter in queue if not pool.have_slots(waiter.wanted)]
        asked: dict[TenantId, tuple[SizedVersion, ...]] = {}  # by the oldest request of each
        for waiter in short:
            asked.setdefault(waiter.tenant, waiter.wanted)
        within = pool.tenants_within_share(asked)
        # Who needs no room comes after those who wait for some, which may close its adapters.
        first = dict.fromkeys(waiter for waiter in short if waiter.tenant in within)
        return [*first, *(waiter for waiter in queue if waiter not in first)]

    def count_release(self) -> None:
        """Count a lease on adapters that has ended while a request waits for room."""
        if self._head is not None:
            self._head.overtaken += 1

    def remove_waiter(self, waiter: Waiter) -> list[QueueEvent]:
        """Remove a request that is no longer awaited, and end its lease; its loads continue."""
        for queue in (self._requests, self._admitted):
            if waiter in queue:
                queue.remove(waiter)
        if waiter.lease is not None:
            self._pool.release_lease(waiter.lease.id)
        return _unpinned(waiter)

    def settle_load(self, digest: AdapterDigest, error: AdapterError | None) -> None:
        """Answer the waiters that a load was the last, or a failure, for; end failed leases."""
        for waiter in tuple(self._admitted):
            if digest not in waiter.awaiting:
                continue
            waiter.awaiting.discard(digest)
            if error is not None:
                self._admitted.remove(waiter)
                if waiter.lease is not None:
                    self._pool.release_lease(waiter.lease.id)
                waiter.settle(error)
            elif not waiter.awaiting:
                self._admitted.remove(waiter)
                waiter.settle()

    def close(self, error: AdapterError) -> list[QueueEvent]:
        """Answer every waiter with an error; loads under way continue."""
        events: list[QueueEvent] = []
        for waiter in (*self._requests, *self._prefetches):
            waiter.settle(error)
            events += _unpinned(waiter)
        self._requests.clear()
        self._prefetches.clear()
        for waiter in tuple(self._admitted):
            waiter.settle(error)
            events += self.remove_waiter(waiter)
        return events

    def check_integrity(self, moving: Collection[AdapterDigest]) -> None:
        """Verify that waiters await only adapters that are being loaded.

        Args:
            moving: versions that are neither absent nor READY.

        Raises:
            IntegrityError: with both sets.
        """
        for waiter in self._admitted:
            if not waiter.awaiting or not waiter.awaiting <= set(moving):
                raise IntegrityError(
                    f"adapter manager: a waiter awaits {sorted(waiter.awaiting)}, "
                    f"but {sorted(moving)} are on their way"
                )

    def _grant_leases(self, events: list[QueueEvent]) -> Waiter | None:
        """Serve the requests. Returns the first that must wait for room, or None."""
        head: Waiter | None = None
        for waiter in self.requests_in_turn():
            if head is not None and not self._may_overtake(waiter):
                continue
            try:
                answer = self._pool.admit(waiter.wanted, waiter.tenant)
            except AdapterError as error:
                self._requests.remove(waiter)
                events += _unpinned(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, Admitted):
                self._requests.remove(waiter)
                if head is not None and waiter.wanted:
                    head.overtaken += 1
                self._start(waiter, answer, events)
                continue
            head = waiter
            if isinstance(answer, MustEvict):
                events += map(StartEviction, answer.victims)
            self._close_for(waiter if isinstance(answer, MustWait) else None, events)
        return head

    def _close_for(self, head: Waiter | None, events: list[QueueEvent]) -> None:
        """Close adapters that must become idle for ``head``, once enough others overtook it."""
        before = self._closed_to_new
        self._closed_to_new = frozenset()
        if head is not None and head.overtaken >= self._max_overtakes:
            self._closed_to_new = self._pool.choose_to_close(head.wanted, head.tenant)
        if self._closed_to_new - before:
            events.append(CloseToNew(self._closed_to_new))

    def _may_overtake(self, waiter: Waiter) -> bool:
        return self._pool.have_slots(waiter.wanted) and not any(
            version.digest in self._closed_to_new for version in waiter.wanted
        )

    def _start_prefetches(self, events: list[QueueEvent]) -> None:
        for waiter in tuple(self._prefetches):
            (wanted,) = waiter.wanted
            try:
                answer: Admitted | MustEvict | MustWait = self._pool.admit_prefetch(
                    wanted, gently=waiter.gently
                )
            except AdapterError as error:
                self._prefetches.remove(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, MustEvict):
                events += map(StartEviction, answer.victims)
                return
            self._prefetches.remove(waiter)
            if isinstance(answer, Admitted):
                self._start(waiter, answer, events)
            else:
                waiter.settle(
                    AdapterCapacity(
                        f"no room for {wanted.alias} among the adapters in use; try later"
                    )
                )

    def _start(self, waiter: Waiter, answer: Admitted, events: list[QueueEvent]) -> None:
        waiter.lease = answer.lease
        tenant = None if waiter.lease is None else waiter.tenant
        events += [StartLoad(digest, tenant) for digest in answer.start]
        events += _unpinned(waiter)
        waiter.awaiting = {
            v.digest for v in waiter.wanted if self._pool.state(v.digest) is not AdapterState.READY
        }
        if waiter.awaiting:
            self._admitted.append(waiter)
        else:
            waiter.settle()


def _unpinned(waiter: Waiter) -> list[QueueEvent]:
    """Take the pins of a waiter that is answered."""
    if not waiter.copies:
        return []
    pins = tuple(waiter.copies)
    waiter.copies.clear()
    return [UnpinCopies(pins)]
