"""Moves adapters from host memory into slots, and out of slots again.

Runs on the event loop of ``residency.manager``, whose dispatcher starts its coroutines as tasks and
acts on what they return. Writing the bank runs in the manager's executor.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.load_counts import LoadCounts
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.residency_types import AdapterBankProtocol, VersionSource
from cluster.adapters.residency.timed_calls import timed_in_thread
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.errors import AdapterError, AdapterLoadFailed

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WriteStarted:
    """A version's tensors are in host memory and go to its slot now."""

    digest: AdapterDigest


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """A load has ended; the pool has not heard of a failure yet."""

    digest: AdapterDigest
    error: AdapterError | None


class SlotLoader:
    """Fills and clears the slots that the pool has given.

    Args:
        max_parallel: loads at a time.
    """

    def __init__(
        self,
        pool: AdapterPool,
        bank: AdapterBankProtocol,
        tier: HostTier,
        catalog: VersionSource,
        clock: Clock,
        executor: Executor,
        max_parallel: int,
    ) -> None:
        self.counts = LoadCounts()
        self._pool = pool
        self._bank = bank
        self._tier = tier
        self._catalog = catalog
        self._clock = clock
        self._executor = executor
        self._parallel = asyncio.Semaphore(max_parallel)
        self._closed = False

    async def load_slot(
        self, digest: AdapterDigest, tenant: TenantId | None
    ) -> AsyncIterator[WriteStarted | LoadEnded]:
        """Fill the slot of a version that the pool has moved to FETCHING.

        Yields ``WriteStarted`` if it comes that far, and ``LoadEnded`` last.
        """
        slot: Slot | None = None
        error: AdapterError | None = None
        try:
            async with (
                self._parallel,
                self._tier.lend_copy(
                    self._catalog.by_digest(digest), self._pool.version_of(digest), tenant
                ) as copy,
            ):
                self._pool.fetched(digest)
                if self._closed:
                    raise AdapterLoadFailed("the adapter manager is closed")
                slot = self._pool.writing(digest)
                yield WriteStarted(digest)
                _, write_s = await timed_in_thread(
                    self._executor, self._clock, self._bank.place, slot, copy.adapter
                )
                nbytes = self._bank.nbytes(slot)
                self._pool.loaded(digest, nbytes)
                self.counts.count_load(nbytes, write_s, copy.read_s)
        except AdapterError as refused:
            error = refused
        except Exception as unexpected:
            log.exception("adapter_load_failed", digest=digest)
            error = AdapterLoadFailed(
                f"adapter {digest[:12]}: {type(unexpected).__name__}: {unexpected}"
            )
        if error is not None and slot is not None:
            await self._clear(slot)
        yield LoadEnded(digest, error)

    async def clear_slot(self, digest: AdapterDigest) -> None:
        """Clear the slot of a version that the pool has moved to EVICTING."""
        slot = self._pool.slot_of(digest)
        if slot is not None:
            await self._clear(slot)

    def close(self) -> None:
        """Start no more writes to slots; writes under way continue."""
        self._closed = True

    async def _clear(self, slot: Slot) -> None:
        """Clear a slot. It is written whole before it is used, so a failure leaves it free."""
        try:
            await timed_in_thread(self._executor, self._clock, self._bank.clear, slot)
        except Exception:
            log.exception("adapter_slot_not_cleared", slot=slot)
