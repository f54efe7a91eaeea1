"""Loads adapters on demand: leases for requests, prefetches, and the controller's placement.

The manager owns one ``AdapterPool`` of slots, one ``HostTier``, one ``WaitQueue`` and one
``SlotLoader``. They return what must be done next, and its dispatcher does it. All methods run on
one event loop; only reading files and writing the bank run in the executor, so that decoding
continues meanwhile.

A request asks for all its versions at once and is granted all or none. While room is short,
requests that need new slots are served in turn, and their files are read into the host tier
meanwhile; requests whose adapters have slots already overtake (``residency.queue``).

Every accepted ``acquire`` ends in exactly one of: a lease (the caller must release it), an error,
or the caller's own cancellation (which leaves no lease).
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from cluster.adapters.residency.dispatcher import ResidencyDispatcher
from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.load_counts import LoadCounts
from cluster.adapters.residency.loading import SlotLoader
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.queue import Waiter, WaitQueue
from cluster.adapters.residency.residency_types import (
    ANY_TENANT,
    AdapterBankProtocol,
    AdapterEvent,
    AdapterTier,
    HostAdapterProtocol,
    Lease,
    PlacementAck,
    SizedVersion,
    VersionSource,
    sized_version,
)
from cluster.clock import Clock
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterEntry, AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterLoadFailed,
    BraidError,
    IntegrityError,
    ModelNotFound,
)
from cluster.tenancy.shares import DEFAULT_WEIGHT

MOST_WEIGHTS = 64
"""Weights that are remembered before those of absent tenants are forgotten."""


@dataclass(slots=True)
class TierCounters:
    """Cumulative numbers for metrics. A hit is counted where a request found its adapter."""

    adapter_hits_device: int = 0  # loaded, or on its way to its slot
    adapter_hits_host: int = 0
    adapter_hits_disk: int = 0


class AdapterManager:
    """Serves one replica's adapters.

    Args:
        loader: reads, checks and packs an adapter's files; runs in ``executor``.
        executor: the caller's; give it at least two threads.
        on_change: receives the changes of state.
        on_close_to_new: receives the versions that are closed to new requests, so that requests
            that have not begun can give their leases back.
    """

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
        on_close_to_new: Callable[[frozenset[AdapterDigest]], None] | None = None,
        max_parallel_loads: int = 2,
        max_overtakes: int = 32,
    ) -> None:
        self._load_timeout_s = config.load_timeout_s
        self._catalog = catalog
        self._bank = bank
        self._weights: dict[TenantId, float] = {}  # the newest of each tenant that asks
        self._most_weights = MOST_WEIGHTS  # until some may be forgotten
        self._pool = AdapterPool(
            config.slots,
            config.memory_bytes,
            config.failure_ttl_s,
            clock,
            share_window_s=config.share_window_s,
            weights=self._weights,
        )
        self._host = HostTier(
            config.host_bytes,
            config.share_window_s,
            clock,
            loader,
            executor,
            config.load_timeout_s,
            self._weights,
        )
        self._queue = WaitQueue(self._pool, max_overtakes)
        self._loader = SlotLoader(
            self._pool, bank, self._host, catalog, clock, executor, max_parallel_loads
        )
        self._dispatcher = ResidencyDispatcher(
            self._pool,
            self._host,
            self._queue,
            self._loader,
            catalog,
            on_change=on_change,
            on_close_to_new=on_close_to_new,
        )
        self._versions: dict[AdapterDigest, SizedVersion] = {}
        self._counters = TierCounters()
        self._placement = NO_PLAN  # the version of the one in force
        self._closed = False

    # Requests

    async def acquire(
        self,
        digests: Sequence[AdapterDigest],
        tenant: TenantId = ANY_TENANT,
        weight: float = DEFAULT_WEIGHT,
    ) -> Lease:
        """Keep all of ``digests`` READY until ``release``; slots come in the order asked.

        They count for the share of ``tenant``, whose weight is ``weight`` from now on.

        Raises:
            AdapterCapacity: they cannot fit, or no room came free within ``load_timeout_s``.
            AdapterLoadFailed: a load failed, or took longer than ``load_timeout_s``.
            AdapterError: an adapter was refused; its message says why.
            ModelNotFound: the catalog has no such version.
        """
        lease = self.acquire_at_once(digests, tenant, weight)
        if lease is not None:
            return lease
        waiter = self._waiter(digests, tenant)
        self._note_request(waiter.wanted, tenant, weight)
        self._queue.add_request(waiter)
        try:
            self._dispatcher.serve()
            async with asyncio.timeout(self._load_timeout_s):
                lease = await waiter.future
        except TimeoutError as error:
            raise self._timed_out(waiter) from error
        except BaseException:
            self._remove(waiter)
            raise
        if lease is None:
            raise IntegrityError("an acquire was answered with 0 leases, expected 1")
        return lease

    def acquire_at_once(
        self,
        digests: Sequence[AdapterDigest],
        tenant: TenantId = ANY_TENANT,
        weight: float = DEFAULT_WEIGHT,
    ) -> Lease | None:
        """Return what ``acquire`` would where no one has to wait: all are READY, none is queued.

        None, with nothing changed, where it would have to.

        Raises:
            AdapterError, ModelNotFound: as ``acquire``.
        """
        self._refuse_if_closed()
        wanted = tuple([self._version(digest) for digest in digests])
        lease = self._pool.lease_ready(wanted, tenant) if self._queue.is_empty else None
        if lease is not None:
            self._note_request(wanted, tenant, weight)
        return lease

    def release(self, lease: Lease) -> None:
        """End a lease; ending it again does nothing."""
        if not self._pool.release_lease(lease.id):
            return
        if self._queue.is_empty:
            return
        if lease.digests:
            self._queue.count_release()
        self._dispatcher.serve()

    def prefetch(self, digest: AdapterDigest) -> bool:
        """Start to load a version that a request will soon ask for.

        It delays no request and takes no tenant's share. Returns False if it cannot start: the
        version is unknown or failed a short while ago, or the adapters in use leave no room.
        """
        if self._queue.has_prefetch(digest):
            return True
        try:
            future = self._prefetch(digest)
        except BraidError:
            return False
        # Nothing awaits this future; the pool remembers a later failure.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return not future.done() or future.exception() is None

    def invocation_tokens(self, digest: AdapterDigest) -> tuple[int, ...]:
        """Return the tokens that invoke a version; none for an ordinary adapter.

        A leased version has them even if the registry has removed it.

        Raises:
            ModelNotFound: the catalog has no such version.
        """
        return self._version(digest).invocation_tokens

    # Operators and the controller

    async def apply_placement(
        self,
        digests: Sequence[AdapterDigest],
        version: PlanVersion,
        pinned: Collection[AdapterDigest] = (),
        kept: Collection[AdapterDigest] = (),
    ) -> PlacementAck:
        """Load ``digests``, most wanted first, and spare them in evictions from now on.

        Those that are ``pinned`` are not evicted at all. Those that are ``kept`` are not loaded: a
        plan is older than the last requests, which may have evicted one. What has left the
        placement is like what demand alone loaded: it stays until its room is needed. A placement
        older than the one in force changes nothing; the same one again retries what is missing.
        """
        self._refuse_if_closed()
        before = {r.digest for r in self._pool.residents()}
        failed: list[tuple[AdapterDigest, str, str]] = []
        if version >= self._placement:
            self._placement = version
            self._pool.set_placement(digests, pinned)
            outcomes = await asyncio.gather(
                *(self._place(digest) for digest in dict.fromkeys(digests) if digest not in kept)
            )
            failed = [outcome for outcome in outcomes if outcome is not None]
        here = {r.digest: r.state for r in self._pool.residents()}
        return PlacementAck(
            version=self._placement,
            loaded=tuple(d for d in digests if here.get(d) is AdapterState.READY),
            failed=tuple(failed),
            evicted=tuple(sorted(before - here.keys())),
        )

    def pin_adapter(self, digest: AdapterDigest) -> bool:
        """Prevent the eviction of a version and start to load it; False if that cannot start."""
        self._pool.pin_adapter(digest)
        self._host.pin_adapter(digest)
        return self.prefetch(digest)

    def unpin_adapter(self, digest: AdapterDigest) -> None:
        """Undo ``pin_adapter``."""
        self._pool.unpin_adapter(digest)
        self._host.unpin_adapter(digest)
        self._dispatcher.serve()

    async def load_adapter(self, digest: AdapterDigest) -> None:
        """Load a version without a lease, and wait until it is READY.

        Raises:
            AdapterCapacity: the adapters that are in use or were used recently leave no room.
            AdapterError: it was refused, or its load failed; as ``acquire``.
            ModelNotFound: the catalog has no such version.
        """
        await self._prefetch(digest, gently=True)

    async def read_adapter(self, digest: AdapterDigest) -> None:
        """Read and check a version's files, and keep it on the host if it fits.

        Raises:
            AdapterError: it was refused, or could not be read.
            ModelNotFound: the catalog has no such version.
        """
        self._refuse_if_closed()
        version = self._version(digest)
        async with self._host.lend_copy(self._catalog.by_digest(digest), version, None):
            return

    async def evict_adapter(self, digest: AdapterDigest) -> bool:
        """Evict a version for good, from both tiers, and end its pin.

        Returns False while a lease or a load still needs it.
        """
        self._pool.forget_wishes(digest)
        self._host.unpin_adapter(digest)
        if self._pool.evict(digest):
            self._dispatcher.start_eviction(digest)
        task = self._dispatcher.tasks.get(digest)
        if task is not None and self._pool.state(digest) is AdapterState.EVICTING:
            await asyncio.wait([task])
        if self._pool.state(digest) not in (AdapterState.ABSENT, AdapterState.FAILED):
            return False
        if not self._host.evict_copy(digest):
            return False
        self._versions.pop(digest, None)
        return True

    # Reading

    def resident(self, before: Sequence[ResidentAdapter] = ()) -> tuple[ResidentAdapter, ...]:
        """Return every version that has a slot, by slot.

        Args:
            before: an earlier answer. Its members are used again where only ``idle_s`` differs.
        """
        return self._pool.residents(before)

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """Return every version that takes host memory, by digest; most may be in slots as well."""
        return self._host.residents()

    def tier_of(self, digest: AdapterDigest) -> AdapterTier:
        """Return the tier that a request for a version would find it in now."""
        state = self._pool.state(digest)
        if state is AdapterState.READY:
            return "device"
        if self._pool.slot_of(digest) is not None and state is not AdapterState.EVICTING:
            return "loading"
        return "host" if digest in self._host else "disk"

    @property
    def host_version(self) -> int:
        """Changes whenever ``on_host`` does."""
        return self._host.revision

    @property
    def bytes_used(self) -> int:
        """Device bytes promised or taken."""
        return self._pool.bytes_used

    @property
    def host_bytes_used(self) -> int:
        """Bytes of host memory promised or taken."""
        return self._host.bytes_used

    @property
    def loading_bytes(self) -> int:
        """Bytes of the versions on their way to the device, or waited for without room there."""
        loading = self._pool.loading_bytes if self._dispatcher.tasks else 0
        if self._queue.is_empty:
            return loading
        waiting = {
            v.digest: v.nbytes for v in self._queue.wanted() if self._pool.slot_of(v.digest) is None
        }
        return loading + sum(waiting.values())

    @property
    def eviction_age_s(self) -> float:
        """Mean time from a version's last use until it left the device for others; 0: none did."""
        return self._pool.eviction_age_s

    @property
    def loads(self) -> LoadCounts:
        """Totals of the loads to the device."""
        return self._loader.counts

    def counters(self) -> tuple[tuple[str, float], ...]:
        """Return cumulative numbers for metrics, by name."""
        loads = self._loader.counts
        return (
            *((name, float(getattr(self._counters, name))) for name in TierCounters.__slots__),
            ("adapter_loads_from_host", float(self._host.loads_from_host)),
            ("adapter_reads_from_disk", float(self._host.reads_from_disk)),
            *(
                (f"adapter_load_{what}_{tier}", float(value))
                for tier, totals in (("host", loads.host), ("disk", loads.disk))
                for what, value in (
                    ("count", totals.loads),
                    ("bytes", totals.nbytes),
                    ("seconds", totals.seconds),
                )
            ),
            ("adapter_evictions_device", float(self._pool.evictions)),
            ("adapter_evictions_host", float(self._host.evictions)),
        )

    @property
    def desired(self) -> tuple[frozenset[AdapterDigest], PlanVersion]:
        """The placement in force and its version."""
        return self._pool.desired, self._placement

    @property
    def waiting(self) -> int:
        """Requests that wait for room or for a load."""
        return self._queue.waiting

    @property
    def leases(self) -> int:
        """Open leases, including those of requests that still wait for a load."""
        return self._pool.leases

    def check_integrity(self) -> None:
        """Verify that pool, host tier, tasks and waiters agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._pool.check_integrity()
        self._host.check_integrity()
        self._dispatcher.check_integrity()

    async def close(self) -> None:
        """Refuse new requests, end all waiting, and wait for the work in the executor to end."""
        self._closed = True
        await self._dispatcher.close(AdapterLoadFailed("the adapter manager is closing"))
        await self._host.close()

    # Waiters

    def _waiter(self, digests: Sequence[AdapterDigest], tenant: TenantId) -> Waiter:
        wanted = tuple(self._version(digest) for digest in digests)
        return Waiter(wanted, asyncio.get_running_loop().create_future(), tenant)

    def _prefetch(
        self, digest: AdapterDigest, *, gently: bool = False
    ) -> asyncio.Future[Lease | None]:
        self._refuse_if_closed()
        waiter = self._waiter((digest,), ANY_TENANT)
        waiter.gently = gently
        self._queue.add_prefetch(waiter)
        self._dispatcher.serve()
        return waiter.future

    async def _place(self, digest: AdapterDigest) -> tuple[AdapterDigest, str, str] | None:
        try:
            await self._prefetch(digest)
        except (AdapterError, ModelNotFound) as error:
            return digest, error.code, error.message
        return None

    def _remove(self, waiter: Waiter) -> None:
        self._dispatcher.carry_out(self._queue.remove_waiter(waiter))
        self._dispatcher.serve()

    def _timed_out(self, waiter: Waiter) -> AdapterError:
        aliases = ", ".join(version.alias for version in waiter.wanted)
        limit = self._load_timeout_s
        admitted = waiter.lease is not None
        self._remove(waiter)
        if admitted:
            return AdapterLoadFailed(f"loading {aliases} took longer than {limit:g} s")
        return AdapterCapacity(f"no room for {aliases} within {limit:g} s: all slots are in use")

    def _note_request(
        self, wanted: Sequence[SizedVersion], tenant: TenantId, weight: float
    ) -> None:
        """Count where a request finds its adapters, and who asks for them."""
        if wanted:
            self._pool.note_tenant(tenant)
            self._note_weight(tenant, weight)
        for digest in {version.digest for version in wanted}:
            if self._pool.slot_of(digest) is not None:
                self._counters.adapter_hits_device += 1
            elif digest in self._host:
                self._counters.adapter_hits_host += 1
            else:
                self._counters.adapter_hits_disk += 1

    def _note_weight(self, tenant: TenantId, weight: float) -> None:
        """Take a tenant's weight, and forget those of tenants that no one here knows any more."""
        self._weights[tenant] = weight
        if len(self._weights) <= self._most_weights:
            return
        known = self._pool.tenants() | self._host.tenants() | self._queue.tenants()
        for gone in self._weights.keys() - known:
            del self._weights[gone]
        self._most_weights = max(MOST_WEIGHTS, 2 * len(self._weights))

    def _version(self, digest: AdapterDigest) -> SizedVersion:
        known = self._versions.get(digest)
        if known is None:
            entry = self._catalog.by_digest(digest)
            known = self._versions[digest] = sized_version(entry, self._bank)
        return known

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AdapterLoadFailed("the adapter manager is closed")
