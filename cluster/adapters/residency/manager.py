"""Adapters on demand: leases for requests, prefetches, and the controller's placement.

The manager is the one owner of its ``AdapterPool``. All its methods run on one event loop; only
reading files and writing the bank run in the executor, so that decoding goes on meanwhile.

A request asks for all its versions at once and is granted all or none. While room is short,
requests that need new slots are served in turn, and their files are read into the host tier
meanwhile; those whose adapters are already here overtake (``cluster.adapters.residency.line``).

Every accepted ``acquire`` ends in exactly one of: a lease (the caller must release it), an error,
or the caller's own cancellation (nothing is held then).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.adapters.format.peft_config import module_ranks
from cluster.adapters.residency.host_books import HostBooks
from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.line import AdapterLine
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.pool_types import (
    SOMEBODY,
    AdapterEvent,
    Candidate,
    Lease,
)
from cluster.adapters.residency.protocols import (
    AdapterBankProtocol,
    HostAdapterProtocol,
    VersionSource,
)
from cluster.adapters.residency.waiting import Waiter
from cluster.clock import Clock
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterEntry, AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterLoadFailed,
    BraidError,
    IntegrityError,
    ModelNotFound,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PlacementAck:
    """What became of a placement."""

    version: int  # the one in force; newer than the one sent when that was stale
    loaded: tuple[AdapterDigest, ...]  # of the placement, READY now
    failed: tuple[tuple[AdapterDigest, str, str], ...]  # (digest, error code, message)
    evicted: tuple[AdapterDigest, ...]  # here before, gone now


@dataclass(slots=True)
class TierCounters:
    """Cumulative numbers for metrics. A hit is where a request found one of its adapters."""

    adapter_hits_device: int = 0  # loaded, or on its way to its slot
    adapter_hits_host: int = 0
    adapter_hits_disk: int = 0


class AdapterManager:
    """See the module. ``executor`` is the caller's; give it at least two threads."""

    def __init__(
        self,
        config: AdapterConfig,
        catalog: VersionSource,
        bank: AdapterBankProtocol,
        loader: Callable[[AdapterEntry], HostAdapterProtocol],
        clock: Clock,
        executor: Executor,
        *,
        on_change: Callable[[tuple[AdapterEvent, ...]], None] | None = None,
        on_drain: Callable[[frozenset[AdapterDigest]], None] | None = None,
        max_parallel_loads: int = 2,
        max_overtakes: int = 32,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._bank = bank
        self._loader = loader
        self._executor = executor
        self._counters = TierCounters()
        self._candidates: dict[AdapterDigest, Candidate] = {}
        self._on_change = on_change
        self._pool = AdapterPool(
            config.slots,
            config.memory_bytes,
            config.failure_ttl_s,
            clock,
            share_window_s=config.share_window_s,
        )
        books = HostBooks(config.host_bytes, config.share_window_s, clock)
        self._host = HostTier(
            books, self._read, lambda entry: self._fit(entry).nbytes, self._host_changed
        )
        self._line = AdapterLine(
            self._pool,
            bank,
            self._host,
            catalog,
            self._run,
            report=self._report,
            proceed=self._refuse_if_closed,
            on_drain=on_drain,
            max_parallel_loads=max_parallel_loads,
            max_overtakes=max_overtakes,
        )
        self._host_version = 0
        self._version = 0
        self._closed = False

    async def acquire(self, digests: Sequence[AdapterDigest], tenant: TenantId = SOMEBODY) -> Lease:
        """Hold all of ``digests`` READY until ``release``; slots come in the order asked.

        They count for the share of ``tenant``.

        Raises:
            AdapterCapacity: they cannot fit, or no room came free within ``load_timeout_s``.
            AdapterLoadFailed: a load failed, or took longer than ``load_timeout_s``.
            AdapterError: an adapter was refused; its message says why.
            ModelNotFound: the catalog has no such version.
        """
        self._refuse_if_closed()
        waiter = self._waiter(digests, tenant)
        self._count_hits(waiter)
        if waiter.wanted:
            self._pool.expect(tenant)
        self._line.queue.append(waiter)
        self._line.pump()
        try:
            async with asyncio.timeout(self._config.load_timeout_s):
                lease = await waiter.future
        except TimeoutError as error:
            raise self._timed_out(waiter) from error
        except BaseException:
            self._line.abandon(waiter)
            raise
        if lease is None:
            raise IntegrityError("an acquire was answered with 0 leases, expected 1")
        return lease

    def release(self, lease: Lease) -> None:
        """End a lease; ending it again does nothing."""
        if not self._pool.release(lease.id):
            return
        if lease.digests:
            self._line.released()
        else:
            self._line.pump()

    def prefetch(self, digest: AdapterDigest) -> bool:
        """Start to load a version that a request will soon ask for.

        It never makes anybody wait and never shuts anybody out. False when it cannot be started:
        unknown, failed lately, or no room beside what is in use.
        """
        if any(waiter.wanted[0].digest == digest for waiter in self._line.prefetches):
            return True
        try:
            future = self._prefetch(digest)
        except BraidError:
            return False
        # Nobody awaits this future; a later failure is remembered by the pool.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return not future.done() or future.exception() is None

    def invocation_tokens(self, digest: AdapterDigest) -> tuple[int, ...]:
        """The tokens that invoke a version; none for an ordinary adapter.

        While it is held by a lease, the registry need not know it any more.

        Raises:
            ModelNotFound: the catalog has no such version.
        """
        return self._candidate(digest).invocation_tokens

    async def apply_placement(self, digests: Sequence[AdapterDigest], version: int) -> PlacementAck:
        """Bring in ``digests``, most wanted first, and let go of what is no longer among them.

        What is withdrawn and idle is evicted now; what demand alone brought in stays until its
        room is needed. A version older than the one in force changes nothing; the same version
        again retries what is missing.
        """
        self._refuse_if_closed()
        before = {r.digest for r in self._pool.residents()}
        failed: list[tuple[AdapterDigest, str, str]] = []
        if version >= self._version:
            self._version = version
            withdrawn = self._pool.desired.difference(digests)
            self._pool.set_desired(digests)
            evictions = [
                self._line.loads.evict(d) for d in sorted(withdrawn) if self._pool.evict(d)
            ]
            if evictions:
                await asyncio.wait(evictions)
            outcomes = await asyncio.gather(
                *(self._bring_in(digest) for digest in dict.fromkeys(digests))
            )
            failed = [outcome for outcome in outcomes if outcome is not None]
        here = {r.digest: r.state for r in self._pool.residents()}
        return PlacementAck(
            version=self._version,
            loaded=tuple(d for d in digests if here.get(d) is AdapterState.READY),
            failed=tuple(failed),
            evicted=tuple(sorted(before - here.keys())),
        )

    def pin(self, digest: AdapterDigest) -> bool:
        """Never evict this version and start to load it; False when that cannot start now."""
        self._pool.pin(digest)
        self._host.pin(digest)
        return self.prefetch(digest)

    def unpin(self, digest: AdapterDigest) -> None:
        """Undo ``pin``."""
        self._pool.unpin(digest)
        self._host.unpin(digest)
        self._line.pump()

    async def load(self, digest: AdapterDigest) -> None:
        """Bring a version in without a lease, and wait until it is here.

        Raises:
            AdapterCapacity: there is no room for it beside what is in use or was used lately.
            AdapterError: it was refused, or its load failed; as ``acquire``.
            ModelNotFound: the catalog has no such version.
        """
        await self._prefetch(digest, gently=True)

    async def read(self, digest: AdapterDigest) -> None:
        """Read and check a version's files, and keep it on the host if it fits.

        Raises:
            AdapterError: it was refused, or could not be read.
            ModelNotFound: the catalog has no such version.
        """
        self._refuse_if_closed()
        self._candidate(digest)
        async with self._host.lend(self._catalog.by_digest(digest), None):
            return

    async def unload(self, digest: AdapterDigest) -> bool:
        """Let a version go for good; False while a lease or a load still holds it."""
        self._pool.unpin(digest)
        self._host.unpin(digest)
        self._pool.set_desired(self._pool.desired - {digest})
        if self._pool.evict(digest):
            self._line.loads.evict(digest)
        task = self._line.loads.tasks.get(digest)
        if task is not None and self._pool.state(digest) is AdapterState.EVICTING:
            await asyncio.wait([task])
        if self._pool.state(digest) not in (AdapterState.ABSENT, AdapterState.FAILED):
            return False
        if not self._host.drop(digest):
            return False
        self._candidates.pop(digest, None)
        return True

    def resident(self) -> tuple[ResidentAdapter, ...]:
        """Everything that holds a slot, by slot."""
        return self._pool.residents()

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """Everything that takes host memory, by digest; most of it may be in slots as well."""
        return self._host.residents()

    @property
    def host_version(self) -> int:
        """Changes whenever ``on_host`` does."""
        return self._host_version

    @property
    def bytes_used(self) -> int:
        """Device bytes promised or taken."""
        return self._pool.bytes_used

    @property
    def host_bytes_used(self) -> int:
        """Bytes of host memory promised or taken."""
        return self._host.bytes_used

    def counters(self) -> tuple[tuple[str, float], ...]:
        """Cumulative numbers for metrics, by name."""
        return (
            *((name, float(getattr(self._counters, name))) for name in TierCounters.__slots__),
            ("adapter_loads_from_host", float(self._host.loads_from_host)),
            ("adapter_reads_from_disk", float(self._host.reads_from_disk)),
            ("adapter_evictions_device", float(self._pool.evictions)),
            ("adapter_evictions_host", float(self._host.evictions)),
        )

    @property
    def desired(self) -> tuple[frozenset[AdapterDigest], int]:
        """The placement in force and its version."""
        return self._pool.desired, self._version

    @property
    def waiting(self) -> int:
        """Requests that wait for room or for a load."""
        return self._line.waiting

    @property
    def leases(self) -> int:
        """Leases held, those of requests still waiting for a load included."""
        return self._pool.leases

    def check_integrity(self) -> None:
        """Verify that pool, tasks and waiters agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._pool.check_integrity()
        self._host.check_integrity()
        self._line.check_integrity()

    async def close(self) -> None:
        """Refuse newcomers, end all waiting, and wait for the work in the executor to end."""
        self._closed = True
        self._line.close(AdapterLoadFailed("the adapter manager is closing"))
        await self._line.loads.finish()
        await self._host.close()

    # Waiting

    def _waiter(self, digests: Sequence[AdapterDigest], tenant: TenantId) -> Waiter:
        wanted = tuple(self._candidate(digest) for digest in digests)
        return Waiter(wanted, asyncio.get_running_loop().create_future(), tenant)

    def _count_hits(self, waiter: Waiter) -> None:
        for digest in {candidate.digest for candidate in waiter.wanted}:
            if self._pool.slot_of(digest) is not None:
                self._counters.adapter_hits_device += 1
            elif digest in self._host:
                self._counters.adapter_hits_host += 1
            else:
                self._counters.adapter_hits_disk += 1

    def _candidate(self, digest: AdapterDigest) -> Candidate:
        known = self._candidates.get(digest)
        if known is None:
            known = self._candidates[digest] = self._fit(self._catalog.by_digest(digest))
        return known

    def _fit(self, entry: AdapterEntry) -> Candidate:
        known = self._candidates.get(entry.key.digest)
        if known is not None:
            return known
        manifest = entry.manifest
        try:
            nbytes = self._bank.required_nbytes(module_ranks(manifest))
        except ValueError as error:
            raise AdapterError(
                f"adapter {entry.key.alias}: does not fit the base: {error}"
            ) from error
        return Candidate(
            entry.key.digest,
            entry.key.alias,
            manifest.max_rank,
            nbytes,
            manifest.invocation_tokens,
        )

    def _prefetch(
        self, digest: AdapterDigest, *, gently: bool = False
    ) -> asyncio.Future[Lease | None]:
        self._refuse_if_closed()
        waiter = self._waiter((digest,), SOMEBODY)
        waiter.gently = gently
        self._line.prefetches.append(waiter)
        self._line.pump()
        return waiter.future

    async def _bring_in(self, digest: AdapterDigest) -> tuple[AdapterDigest, str, str] | None:
        try:
            await self._prefetch(digest)
        except (AdapterError, ModelNotFound) as error:
            return digest, error.code, error.message
        return None

    def _timed_out(self, waiter: Waiter) -> AdapterError:
        aliases = ", ".join(c.alias for c in waiter.wanted)
        limit = self._config.load_timeout_s
        admitted = waiter.lease is not None
        self._line.abandon(waiter)
        if admitted:
            return AdapterLoadFailed(f"loading {aliases} took longer than {limit:g} s")
        return AdapterCapacity(f"no room for {aliases} within {limit:g} s: all slots are in use")

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AdapterLoadFailed("the adapter manager is closed")

    def _report(self) -> None:
        events = self._pool.drain_events()
        if events and self._on_change is not None:
            self._on_change(events)

    def _host_changed(self) -> None:
        self._host_version += 1

    async def _read(self, entry: AdapterEntry) -> HostAdapterProtocol:
        limit = self._config.load_timeout_s
        try:
            return await asyncio.wait_for(self._run(self._loader, entry), limit)
        except TimeoutError as error:
            raise AdapterLoadFailed(
                f"adapter {entry.key.alias}: reading {entry.path} took longer than {limit:g} s"
            ) from error

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)
