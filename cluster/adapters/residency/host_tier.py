"""Moves adapters from files to host memory, and keeps them there.

Everything but reading files runs on the event loop of ``residency.manager``, which owns the tier.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from cluster.adapters.residency.eviction import EvictionPolicy
from cluster.adapters.residency.ledger import AdapterLedger
from cluster.adapters.residency.residency_types import HostAdapterProtocol, SizedVersion
from cluster.adapters.residency.timed_calls import timed_in_thread
from cluster.clock import Clock
from cluster.domain.adapter import AdapterEntry, AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterLoadFailed, IntegrityError


@dataclass(frozen=True, slots=True)
class HostCopy:
    """An adapter in host memory, lent for a load."""

    adapter: HostAdapterProtocol
    read_s: float | None  # that reading its files took for this load; None: it was here before


class HostTier:
    """Keeps checked and packed adapters in host memory, so that most loads are one copy.

    A version is read once at a time, by whichever request asks first. One that does not fit is read
    for its load alone and not kept.

    Args:
        memory_bytes: of all copies together; 0 keeps none.
        share_window_s: how long a use counts for its tenant's share.
        loader: reads, checks and packs an adapter's files in ``executor``; raises ``AdapterError``.
        timeout_s: for one call of ``loader``.
        weights: of tenants, as they are now; 1 where absent.
    """

    def __init__(
        self,
        memory_bytes: int,
        share_window_s: float,
        clock: Clock,
        loader: Callable[[AdapterEntry], HostAdapterProtocol],
        executor: Executor,
        timeout_s: float,
        weights: Mapping[TenantId, float],
    ) -> None:
        self._ledger = AdapterLedger(
            "host tier", memory_bytes, None, share_window_s, clock, weights
        )
        self._policy = EvictionPolicy(self._ledger)
        self._loader = loader
        self._executor = executor
        self._timeout_s = timeout_s
        self._copies: dict[AdapterDigest, HostAdapterProtocol] = {}
        self._reads: dict[AdapterDigest, asyncio.Task[HostCopy]] = {}
        self._clock = clock
        self.revision = 0
        """Changes whenever a copy has come or gone."""
        self.loads_from_host = 0
        self.reads_from_disk = 0

    @asynccontextmanager
    async def lend_copy(
        self, entry: AdapterEntry, version: SizedVersion, tenant: TenantId | None
    ) -> AsyncIterator[HostCopy]:
        """Provide an adapter, from memory or from its files; it stays here until given back.

        Raises:
            AdapterError: it was refused, or reading took longer than ``timeout_s``.
        """
        digest = entry.key.digest
        if digest in self._copies:
            self.loads_from_host += 1
        elif digest not in self._reads:
            self._start(entry, kept=self._reserve(entry, version, tenant))
        pin = self.pin_copy(digest)
        try:
            if digest in self._copies:
                copy = HostCopy(self._copies[digest], None)
            else:
                copy = await asyncio.shield(self._reads[digest])
            if pin is not None:
                self._ledger.note_use((digest,), tenant)
            yield copy
        finally:
            if pin is not None:
                self.unpin_copy(pin)

    def start_read(
        self, entry: AdapterEntry, version: SizedVersion, tenant: TenantId | None
    ) -> asyncio.Task[HostCopy] | None:
        """Begin to read a version that is to be kept.

        Returns:
            The task that reads it, or None if it does not fit.

        Raises:
            IntegrityError: it is here or being read already.
        """
        if not self._reserve(entry, version, tenant):
            return None
        return self._start(entry, kept=True)

    def pin_copy(self, digest: AdapterDigest) -> int | None:
        """Keep a copy, also one that is being read, until ``unpin_copy``; None if there is none."""
        if digest not in self._ledger.residents:
            return None
        return self._ledger.claim(frozenset((digest,)))

    def unpin_copy(self, pin: int) -> None:
        """End a ``pin_copy``; a pin of a version that could not be read has ended already."""
        self._ledger.end_claim(pin)

    def pin_adapter(self, digest: AdapterDigest) -> None:
        """Prevent the eviction of a version, whether it is here yet or not."""
        self._ledger.pin_adapter(digest)

    def unpin_adapter(self, digest: AdapterDigest) -> None:
        """Undo ``pin_adapter``."""
        self._ledger.unpin_adapter(digest)

    def evict_copy(self, digest: AdapterDigest) -> bool:
        """Free a version's memory now; returns False while it is being read or a copy is pinned."""
        if digest in self._reads:
            return False
        if digest not in self._ledger.residents:
            return True
        resident = self._ledger.residents[digest]
        if resident.state is not AdapterState.ON_HOST or resident.claims:
            return False
        self._ledger.remove(digest)
        del self._copies[digest]
        self.revision += 1
        return True

    def __contains__(self, digest: AdapterDigest) -> bool:
        """Return whether a version's copy is here."""
        return digest in self._copies

    def is_reading(self, digest: AdapterDigest) -> bool:
        """Return whether a version's files are being read."""
        return digest in self._reads

    def tenants(self) -> set[TenantId]:
        """Return the tenants that used the tier within the window."""
        return self._ledger.tenants()

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Return every version that takes host memory, by digest."""
        return self._ledger.resident_adapters()

    @property
    def bytes_used(self) -> int:
        """Bytes promised or taken."""
        return self._ledger.bytes_used

    @property
    def evictions(self) -> int:
        """Cumulative number of copies that made room for others."""
        return self._ledger.evictions

    async def close(self) -> None:
        """Wait until nothing is being read."""
        while self._reads:
            await asyncio.wait(tuple(self._reads.values()))

    def check_integrity(self) -> None:
        """Verify that copies, reads and the ledger agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._ledger.check_integrity()
        reserved = self._ledger.residents.keys()
        known = self._copies.keys() | (self._reads.keys() & reserved)
        if known != reserved:
            raise IntegrityError(
                f"host tier: found {len(known)} copies, here or being read, expected "
                f"{len(reserved)}"
            )

    def _reserve(self, entry: AdapterEntry, version: SizedVersion, tenant: TenantId | None) -> bool:
        version = replace(version, alias=entry.key.alias)  # the alias may have changed since
        evicted = self._policy.reserve_evicting(version, tenant)
        for digest in evicted or ():
            del self._copies[digest]
        if evicted:
            self.revision += 1
        return evicted is not None

    def _start(self, entry: AdapterEntry, *, kept: bool) -> asyncio.Task[HostCopy]:
        task = asyncio.create_task(self._read(entry, kept=kept))
        self._reads[entry.key.digest] = task
        # Nothing may await it; a request that needs the version reads it again and gets the error.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _read(self, entry: AdapterEntry, *, kept: bool) -> HostCopy:
        digest = entry.key.digest
        self.reads_from_disk += 1
        fetching, on_host = AdapterState.FETCHING, AdapterState.ON_HOST
        try:
            host, read_s = await asyncio.wait_for(
                timed_in_thread(self._executor, self._clock, self._loader, entry),
                self._timeout_s,
            )
        except BaseException as error:
            if kept:
                self._ledger.expect_state(digest, fetching)
                self._ledger.end_claims_on(digest)
                self._ledger.remove(digest)
            if isinstance(error, TimeoutError):
                raise AdapterLoadFailed(
                    f"adapter {entry.key.alias}: reading {entry.path} took longer than "
                    f"{self._timeout_s:g} s"
                ) from error
            raise
        finally:
            del self._reads[digest]
        if kept:
            self._copies[digest] = host
            self._ledger.change_state(digest, fetching, on_host)
            self.revision += 1
        return HostCopy(host, read_s)
