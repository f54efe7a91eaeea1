"""Checked and packed adapters kept in host memory: most loads to a slot are one copy.

Runs on the owner's event loop; reading happens in its executor. A version is read once at a
time, whoever asks for it. What does not fit is read for its load alone and not kept.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cluster.adapters.residency.host_books import HostBooks, HostCandidate
from cluster.adapters.residency.protocols import HostAdapterProtocol
from cluster.domain.adapter import AdapterEntry, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError

Read = Callable[[AdapterEntry], Awaitable[HostAdapterProtocol]]


class HostTier:
    """See the module.

    Args:
        books: of the same bytes; this is their one owner.
        read: reads, checks and packs an adapter's files; raises ``AdapterError``.
        nbytes_of: bytes of an adapter once it is packed.
        on_change: called when a copy has come or gone.
    """

    def __init__(
        self,
        books: HostBooks,
        read: Read,
        nbytes_of: Callable[[AdapterEntry], int],
        on_change: Callable[[], None],
    ) -> None:
        self._books = books
        self._read = read
        self._nbytes_of = nbytes_of
        self._on_change = on_change
        self._copies: dict[AdapterDigest, HostAdapterProtocol] = {}
        self._reads: dict[AdapterDigest, asyncio.Task[HostAdapterProtocol]] = {}
        self.is_prefetching = False
        """Whether a prefetch is under way."""
        self.loads_from_host = 0
        self.reads_from_disk = 0

    @asynccontextmanager
    async def lend(
        self, entry: AdapterEntry, tenant: TenantId | None
    ) -> AsyncIterator[HostAdapterProtocol]:
        """An adapter, from memory or from its files; kept here until given back.

        Raises:
            AdapterError: as ``read``.
        """
        digest = entry.key.digest
        if digest in self._copies:
            self.loads_from_host += 1
        elif digest not in self._reads:
            self._start(entry, tenant)
        held = self._books.hold(digest)
        try:
            if digest in self._copies:
                host = self._copies[digest]
            else:
                host = await asyncio.shield(self._reads[digest])
            if held is not None:
                self._books.use(digest, tenant)
            yield host
        finally:
            if held is not None:
                self._books.unhold(held)

    def prefetch(
        self, entry: AdapterEntry, tenant: TenantId | None, then: Callable[[], None]
    ) -> bool:
        """Begin to read a version if there is room for it; one at a time.

        ``then`` is called when it has ended, in whatever way.

        False when nothing was begun: another prefetch is under way, or there is no room.
        """
        digest = entry.key.digest
        if digest in self._books or digest in self._reads:
            return True
        if self.is_prefetching or not self._reserve(entry, tenant):
            return False

        def ended(_: object) -> None:
            self.is_prefetching = False
            then()

        self.is_prefetching = True
        self._spawn(entry, kept=True).add_done_callback(ended)
        return True

    def hold(self, digest: AdapterDigest) -> int | None:
        """Keep a copy, also one that is on its way, until ``unhold``; None: there is none."""
        return self._books.hold(digest)

    def unhold(self, hold: int) -> None:
        """End a hold."""
        self._books.unhold(hold)

    def pin(self, digest: AdapterDigest) -> None:
        """Never evict this version."""
        self._books.pin(digest)

    def unpin(self, digest: AdapterDigest) -> None:
        """Undo ``pin``."""
        self._books.unpin(digest)

    def drop(self, digest: AdapterDigest) -> bool:
        """Free a version's memory; False while it is being read or lent out."""
        if digest in self._reads or not self._books.drop(digest):
            return False
        if self._copies.pop(digest, None) is not None:
            self._on_change()
        return True

    def __contains__(self, digest: AdapterDigest) -> bool:
        """Whether its copy is here."""
        return digest in self._copies

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Everything that takes host memory, by digest."""
        return self._books.residents()

    @property
    def bytes_used(self) -> int:
        """Bytes promised or taken."""
        return self._books.bytes_used

    @property
    def bytes_limit(self) -> int:
        """Bytes that copies may take."""
        return self._books.memory_bytes

    @property
    def evictions(self) -> int:
        """Copies that made room for others."""
        return self._books.evictions

    async def close(self) -> None:
        """Wait until nothing is being read."""
        while self._reads:
            await asyncio.wait(tuple(self._reads.values()))

    def check_integrity(self) -> None:
        """Verify that copies, reads and books agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._books.check_integrity()
        booked = {resident.digest for resident in self._books.residents()}
        known = self._copies.keys() | (self._reads.keys() & booked)
        if known != booked:
            raise IntegrityError(
                f"host tier: found {len(known)} copies, there or on their way, expected "
                f"{len(booked)}"
            )

    def _start(self, entry: AdapterEntry, tenant: TenantId | None) -> None:
        self._spawn(entry, kept=self._reserve(entry, tenant))

    def _reserve(self, entry: AdapterEntry, tenant: TenantId | None) -> bool:
        manifest = entry.manifest
        wanted = HostCandidate(
            entry.key.digest, entry.key.alias, manifest.max_rank, self._nbytes_of(entry)
        )
        gone = self._books.reserve(wanted, tenant)
        for digest in gone or ():
            del self._copies[digest]
        if gone:
            self._on_change()
        return gone is not None

    def _spawn(self, entry: AdapterEntry, *, kept: bool) -> asyncio.Task[HostAdapterProtocol]:
        task = asyncio.create_task(self._keep(entry, kept=kept))
        self._reads[entry.key.digest] = task
        # A prefetch is awaited by nobody; who waits for it later reads it anew and meets the error.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _keep(self, entry: AdapterEntry, *, kept: bool) -> HostAdapterProtocol:
        digest = entry.key.digest
        self.reads_from_disk += 1
        try:
            host = await self._read(entry)
        except BaseException:
            if kept:
                self._books.failed(digest)
            raise
        finally:
            del self._reads[digest]
        if kept:
            self._copies[digest] = host
            self._books.arrived(digest)
            self._on_change()
        return host
