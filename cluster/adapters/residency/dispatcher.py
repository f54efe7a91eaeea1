"""Carries out what the wait queue decides: loads, evictions, and reading ahead, as tasks.

Runs on the event loop of ``residency.manager``, which owns it.
"""

import asyncio
from collections.abc import Callable, Iterable

from cluster.adapters.residency.host_tier import HostCopy, HostTier
from cluster.adapters.residency.loading import LoadEnded, SlotLoader
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.queue import (
    CloseToNew,
    QueueEvent,
    StartEviction,
    StartLoad,
    UnpinCopies,
    WaitQueue,
)
from cluster.adapters.residency.residency_types import AdapterEvent, VersionSource
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterError, BraidError, IntegrityError


class ResidencyDispatcher:
    """Serves the queue after every change and starts the work that this asks for.

    Args:
        on_change: receives the pool's changes of state.
        on_close_to_new: receives the versions that are closed to new requests.
    """

    def __init__(
        self,
        pool: AdapterPool,
        host: HostTier,
        queue: WaitQueue,
        loader: SlotLoader,
        catalog: VersionSource,
        *,
        on_change: Callable[[tuple[AdapterEvent, ...]], None] | None,
        on_close_to_new: Callable[[frozenset[AdapterDigest]], None] | None,
    ) -> None:
        self._pool = pool
        self._host = host
        self._queue = queue
        self._loader = loader
        self._catalog = catalog
        self._on_change = on_change
        self._on_close_to_new = on_close_to_new
        self._read_ahead: asyncio.Task[HostCopy] | None = None
        self._closed = False
        self.tasks: dict[AdapterDigest, asyncio.Task[None]] = {}
        """One for each version that is being loaded or evicted."""

    def serve(self) -> None:
        """Grant whatever can be granted now; called after every change."""
        self.carry_out(self._queue.serve_waiters())
        self._read_next()
        self._report()

    def carry_out(self, events: Iterable[QueueEvent]) -> None:
        """Do what the queue asks for, in order; it only starts tasks and ends pins."""
        for event in events:
            match event:
                case StartLoad(digest, tenant):
                    self.tasks[digest] = asyncio.create_task(self._load(digest, tenant))
                case StartEviction(digest):
                    self.start_eviction(digest)
                case UnpinCopies(pins):
                    for pin in pins:
                        self._host.unpin_copy(pin)
                case CloseToNew(digests) if self._on_close_to_new is not None:
                    # Not now: it gives leases back, which changes the queue being served.
                    asyncio.get_running_loop().call_soon(self._on_close_to_new, digests)

    def start_eviction(self, digest: AdapterDigest) -> asyncio.Task[None]:
        """Clear the slot of a version that the pool has moved to EVICTING."""
        task = self.tasks[digest] = asyncio.create_task(self._evict(digest))
        return task

    def check_integrity(self) -> None:
        """Verify that there is one task for each adapter on its way, and that waiters agree.

        Raises:
            IntegrityError: with both numbers.
        """
        residents = self._pool.residents()
        moving = {r.digest for r in residents if r.state is not AdapterState.READY}
        if moving != self.tasks.keys():
            raise IntegrityError(
                f"adapter manager: {len(self.tasks)} tasks, expected {len(moving)}, one for each "
                "adapter that is coming or going"
            )
        self._queue.check_integrity(moving)

    async def close(self, error: AdapterError) -> None:
        """Answer every waiter with ``error``, and wait until no load or eviction is under way."""
        self._closed = True
        self._loader.close()
        self.carry_out(self._queue.close(error))
        self.serve()
        while self.tasks:
            await asyncio.wait(tuple(self.tasks.values()))

    async def _load(self, digest: AdapterDigest, tenant: TenantId | None) -> None:
        async for event in self._loader.load_slot(digest, tenant):
            if not isinstance(event, LoadEnded):
                self._report()
                continue
            del self.tasks[digest]
            self._queue.settle_load(digest, event.error)
            if event.error is not None:
                self._pool.failed(digest, event.error)
            self.serve()

    async def _evict(self, digest: AdapterDigest) -> None:
        await self._loader.clear_slot(digest)
        del self.tasks[digest]
        self._pool.evicted(digest)
        self.serve()

    def _read_next(self) -> None:
        """Read into the host tier what the next requests will need, one version at a time."""
        if self._closed or self._read_ahead is not None or self._queue.is_empty:
            return
        for waiter in self._queue.requests_in_turn():
            for version in waiter.wanted:
                digest = version.digest
                if digest in waiter.tried or self._pool.slot_of(digest) is not None:
                    continue
                waiter.tried.add(digest)
                try:
                    entry = self._catalog.by_digest(digest)
                except BraidError:
                    continue  # its load will raise this too
                reading = self._host.is_reading(digest)
                if not reading and digest not in self._host:
                    self._read_ahead = self._host.start_read(entry, version, waiter.tenant)
                pin = self._host.pin_copy(digest)
                if pin is not None:
                    waiter.copies.append(pin)
                if self._read_ahead is not None:
                    self._read_ahead.add_done_callback(self._read_ahead_ended)
                    return
                if reading:
                    return

    def _read_ahead_ended(self, _: object) -> None:
        self._read_ahead = None
        self._read_next()

    def _report(self) -> None:
        events = self._pool.take_events()
        if events and self._on_change is not None:
            self._on_change(events)
