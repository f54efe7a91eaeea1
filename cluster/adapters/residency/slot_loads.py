"""Adapters on their way into slots and out of them: one task each, bounded in number."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.protocols import AdapterBankProtocol
from cluster.domain.adapter import AdapterEntry
from cluster.domain.ids import AdapterDigest, Slot, TenantId
from cluster.errors import AdapterError, AdapterLoadFailed

log = structlog.get_logger(__name__)

Run = Callable[..., Awaitable[Any]]
"""Runs a function with its arguments in a thread."""


class SlotLoads:
    """Carries out what the pool has decided.

    Args:
        entry_of: what a digest names, now.
        proceed: raises ``AdapterError`` when nothing new may be written any more.
        on_step: a state has changed.
        on_end: a load has ended, with its error or None; the pool knows of success only.
        on_gone: a slot has come free.
    """

    def __init__(
        self,
        pool: AdapterPool,
        bank: AdapterBankProtocol,
        tier: HostTier,
        run: Run,
        *,
        entry_of: Callable[[AdapterDigest], AdapterEntry],
        proceed: Callable[[], None],
        on_step: Callable[[], None],
        on_end: Callable[[AdapterDigest, AdapterError | None], None],
        on_gone: Callable[[AdapterDigest], None],
        max_parallel: int,
    ) -> None:
        self._pool = pool
        self._bank = bank
        self._tier = tier
        self._run = run
        self._entry_of = entry_of
        self._proceed = proceed
        self._on_step = on_step
        self._on_end = on_end
        self._on_gone = on_gone
        self._parallel = asyncio.Semaphore(max_parallel)
        self.tasks: dict[AdapterDigest, asyncio.Task[None]] = {}

    def load(self, digest: AdapterDigest, tenant: TenantId | None) -> None:
        """Fill the slot of a version that the pool has moved to FETCHING."""
        self.tasks[digest] = asyncio.create_task(self._load(digest, tenant))

    def evict(self, digest: AdapterDigest) -> asyncio.Task[None]:
        """Clear the slot of a version that the pool has moved to EVICTING."""
        task = asyncio.create_task(self._evict(digest))
        self.tasks[digest] = task
        return task

    async def finish(self) -> None:
        """Wait until nothing is on its way."""
        while self.tasks:
            await asyncio.wait(tuple(self.tasks.values()))

    async def _load(self, digest: AdapterDigest, tenant: TenantId | None) -> None:
        slot: Slot | None = None
        error: AdapterError | None = None
        try:
            async with self._parallel, self._tier.lend(self._entry_of(digest), tenant) as host:
                self._pool.fetched(digest)
                self._proceed()
                slot = self._pool.writing(digest)
                self._on_step()
                await self._run(self._bank.place, slot, host)
                self._pool.loaded(digest, self._bank.nbytes(slot))
        except AdapterError as refused:
            error = refused
        except Exception as unexpected:
            log.exception("adapter_load_failed", digest=digest)
            error = AdapterLoadFailed(
                f"adapter {digest[:12]}: {type(unexpected).__name__}: {unexpected}"
            )
        if error is not None and slot is not None:
            await self._clear(slot)
        del self.tasks[digest]
        self._on_end(digest, error)

    async def _evict(self, digest: AdapterDigest) -> None:
        slot = self._pool.slot_of(digest)
        if slot is not None:
            await self._clear(slot)
        del self.tasks[digest]
        self._pool.evicted(digest)
        self._on_gone(digest)

    async def _clear(self, slot: Slot) -> None:
        """A slot is written whole before it is used, so one that could not be cleared is free."""
        try:
            await self._run(self._bank.clear, slot)
        except Exception:
            log.exception("adapter_slot_not_cleared", slot=slot)
