"""Adapters on demand: leases for requests, prefetches, and the controller's placement.

The manager is the one owner of its ``AdapterPool``. All its methods run on one event loop; only
reading files and writing the bank run in the executor, so that decoding goes on meanwhile.

A request asks for all its generations at once and is granted all or none. While room is short,
requests that need new slots are served in order of arrival; those whose adapters are already here
overtake. What overtakes the first in line and what is released beside it, both with adapters, are
counted: after ``max_overtakes`` enough adapters are closed to newcomers until they are idle, and
``on_drain`` tells which, so that leases of requests that have not begun can be given back. So the
first in line waits for at most ``max_overtakes`` others and then for what is being decoded over the
adapters that are used least; nobody starves, and no two requests wait for each other.

Every accepted ``acquire`` ends in exactly one of: a lease (the caller must release it), an error,
or the caller's own cancellation (nothing is held then).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from cluster.adapters.peft_config import module_ranks
from cluster.adapters.pool import AdapterPool
from cluster.adapters.pool_types import (
    AdapterEvent,
    Admitted,
    Candidate,
    Lease,
    MustEvict,
    MustWait,
)
from cluster.adapters.protocols import (
    AdapterBankProtocol,
    GenerationSource,
    HostAdapterProtocol,
)
from cluster.clock import Clock
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterEntry, AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, Slot
from cluster.errors import (
    AdapterCapacity,
    AdapterError,
    AdapterLoadFailed,
    BraidError,
    IntegrityError,
    ModelNotFound,
)

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlacementAck:
    """What became of a placement."""

    version: int  # the one in force; newer than the one sent when that was stale
    loaded: tuple[AdapterDigest, ...]  # of the placement, READY now
    failed: tuple[tuple[AdapterDigest, str, str], ...]  # (digest, error code, message)
    evicted: tuple[AdapterDigest, ...]  # here before, gone now


@dataclass(slots=True, eq=False)
class _Waiter:
    """One ``acquire`` or prefetch, from its arrival until it is answered."""

    wanted: tuple[Candidate, ...]
    future: asyncio.Future[Lease | None]
    lease: Lease | None = None
    awaiting: set[AdapterDigest] = field(default_factory=set)  # admitted, not READY yet
    overtaken: int = 0

    def settle(self, error: Exception | None = None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.lease)
        else:
            self.future.set_exception(error)


class AdapterManager:
    """See the module. ``executor`` is the caller's; give it at least two threads."""

    def __init__(
        self,
        config: AdapterConfig,
        catalog: GenerationSource,
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
        self._candidates: dict[AdapterDigest, Candidate] = {}
        self._on_change = on_change
        self._on_drain = on_drain
        self._max_overtakes = max_overtakes
        self._pool = AdapterPool(config.slots, config.memory_bytes, config.failure_ttl_s, clock)
        self._parallel = asyncio.Semaphore(max_parallel_loads)
        self._queue: list[_Waiter] = []  # want a lease, in order of arrival
        self._prefetches: list[_Waiter] = []  # want room without a lease; served after the queue
        self._admitted: list[_Waiter] = []  # have room, await their loads
        self._draining: frozenset[AdapterDigest] = frozenset()
        self._tasks: dict[AdapterDigest, asyncio.Task[None]] = {}  # one load or eviction each
        self._version = 0
        self._closed = False

    async def acquire(self, digests: Sequence[AdapterDigest]) -> Lease:
        """Hold all of ``digests`` READY until ``release``; slots come in the order asked.

        Raises:
            AdapterCapacity: they cannot fit, or no room came free within ``load_timeout_s``.
            AdapterLoadFailed: a load failed, or took longer than ``load_timeout_s``.
            AdapterError: an adapter was refused; its message says why.
            ModelNotFound: the catalog has no such generation.
        """
        self._refuse_if_closed()
        waiter = self._waiter(digests)
        self._queue.append(waiter)
        self._pump()
        try:
            async with asyncio.timeout(self._config.load_timeout_s):
                lease = await waiter.future
        except TimeoutError as error:
            raise self._timed_out(waiter) from error
        except BaseException:
            self._abandon(waiter)
            raise
        if lease is None:
            raise IntegrityError("an acquire was answered with 0 leases, expected 1")
        return lease

    def release(self, lease: Lease) -> None:
        """End a lease; ending it again does nothing."""
        if not self._pool.release(lease.id):
            return
        if self._queue and lease.digests:
            self._queue[0].overtaken += 1
        self._pump()

    def prefetch(self, digest: AdapterDigest) -> bool:
        """Start to load a generation that a request will soon ask for.

        It never makes anybody wait and never shuts anybody out. False when it cannot be started:
        unknown, failed lately, or no room beside what is in use.
        """
        if any(waiter.wanted[0].digest == digest for waiter in self._prefetches):
            return True
        try:
            future = self._prefetch(digest)
        except BraidError:
            return False
        # Nobody awaits this future; a later failure is remembered by the pool.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return not future.done() or future.exception() is None

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
            evictions = [self._evict(d) for d in sorted(withdrawn) if self._pool.evict(d)]
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
        """Never evict this generation and start to load it; False when that cannot start now."""
        self._pool.pin(digest)
        return self.prefetch(digest)

    def unpin(self, digest: AdapterDigest) -> None:
        """Undo ``pin``."""
        self._pool.unpin(digest)
        self._pump()

    async def load(self, digest: AdapterDigest) -> None:
        """Bring a generation in without a lease, and wait until it is here.

        Raises:
            AdapterCapacity: there is no room for it beside what is in use.
            AdapterError: it was refused, or its load failed; as ``acquire``.
            ModelNotFound: the catalog has no such generation.
        """
        await self._prefetch(digest)

    async def unload(self, digest: AdapterDigest) -> bool:
        """Let a generation go for good; False while a lease or a load still holds it."""
        self._pool.unpin(digest)
        self._pool.set_desired(self._pool.desired - {digest})
        if self._pool.evict(digest):
            self._evict(digest)
        task = self._tasks.get(digest)
        if task is not None and self._pool.state(digest) is AdapterState.EVICTING:
            await asyncio.wait([task])
        if self._pool.state(digest) not in (AdapterState.ABSENT, AdapterState.FAILED):
            return False
        self._candidates.pop(digest, None)
        return True

    def resident(self) -> tuple[ResidentAdapter, ...]:
        """Everything that holds a slot, by slot."""
        return self._pool.residents()

    @property
    def bytes_used(self) -> int:
        """Device bytes promised or taken."""
        return self._pool.bytes_used

    @property
    def desired(self) -> tuple[frozenset[AdapterDigest], int]:
        """The placement in force and its version."""
        return self._pool.desired, self._version

    @property
    def waiting(self) -> int:
        """Requests that wait for room or for a load."""
        return len(self._queue) + sum(w.lease is not None for w in self._admitted)

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
        resting = {AdapterState.READY}
        busy = {r.digest for r in self._pool.residents() if r.state not in resting}
        if busy != self._tasks.keys():
            raise IntegrityError(
                f"adapter manager: {len(self._tasks)} tasks, expected {len(busy)}, one for each "
                "adapter that is coming or going"
            )
        for waiter in self._admitted:
            if not waiter.awaiting or not waiter.awaiting <= busy:
                raise IntegrityError(
                    f"adapter manager: a waiter awaits {sorted(waiter.awaiting)}, "
                    f"but {sorted(busy)} are on their way"
                )

    async def close(self) -> None:
        """Refuse newcomers, end all waiting, and wait for the work in the executor to end."""
        self._closed = True
        error = AdapterLoadFailed("the adapter manager is closing")
        for waiter in (*self._queue, *self._prefetches):
            waiter.settle(error)
        self._queue.clear()
        self._prefetches.clear()
        for waiter in tuple(self._admitted):
            waiter.settle(error)
            self._abandon(waiter)
        while self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))

    # Waiting

    def _waiter(self, digests: Sequence[AdapterDigest]) -> _Waiter:
        wanted = tuple(self._candidate(digest) for digest in digests)
        return _Waiter(wanted, asyncio.get_running_loop().create_future())

    def _candidate(self, digest: AdapterDigest) -> Candidate:
        known = self._candidates.get(digest)
        if known is not None:
            return known
        entry = self._catalog.by_digest(digest)
        try:
            nbytes = self._bank.required_nbytes(module_ranks(entry.manifest))
        except ValueError as error:
            raise AdapterError(
                f"adapter {entry.key.alias}: does not fit the base: {error}"
            ) from error
        candidate = Candidate(digest, entry.key.alias, entry.manifest.max_rank, nbytes)
        self._candidates[digest] = candidate
        return candidate

    def _prefetch(self, digest: AdapterDigest) -> asyncio.Future[Lease | None]:
        self._refuse_if_closed()
        waiter = self._waiter((digest,))
        self._prefetches.append(waiter)
        self._pump()
        return waiter.future

    async def _bring_in(self, digest: AdapterDigest) -> tuple[AdapterDigest, str, str] | None:
        try:
            await self._prefetch(digest)
        except (AdapterError, ModelNotFound) as error:
            return digest, error.code, error.message
        return None

    def _timed_out(self, waiter: _Waiter) -> AdapterError:
        aliases = ", ".join(c.alias for c in waiter.wanted)
        limit = self._config.load_timeout_s
        admitted = waiter.lease is not None
        self._abandon(waiter)
        if admitted:
            return AdapterLoadFailed(f"loading {aliases} took longer than {limit:g} s")
        return AdapterCapacity(f"no room for {aliases} within {limit:g} s: all slots are in use")

    def _abandon(self, waiter: _Waiter) -> None:
        """Whoever asked is gone: hold nothing for them. Loads under way go on."""
        for queue in (self._queue, self._admitted):
            if waiter in queue:
                queue.remove(waiter)
        if waiter.lease is not None:
            self._pool.release(waiter.lease.id)
        self._pump()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AdapterLoadFailed("the adapter manager is closed")

    # Granting

    def _pump(self) -> None:
        """Grant whatever can be granted now; called after every change."""
        head = self._grant_leases()
        if head is None:
            self._draining = frozenset()
            self._start_prefetches()
        self._report()

    def _grant_leases(self) -> _Waiter | None:
        """Serve the queue; the first that must wait for room, if any."""
        head: _Waiter | None = None
        for waiter in tuple(self._queue):
            if head is not None and not self._may_overtake(waiter):
                continue
            try:
                answer = self._pool.admit(waiter.wanted)
            except AdapterError as error:
                self._queue.remove(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, Admitted):
                self._queue.remove(waiter)
                if head is not None and waiter.wanted:
                    head.overtaken += 1
                self._start(waiter, answer)
                continue
            head = waiter
            if isinstance(answer, MustEvict):
                for digest in answer.victims:
                    self._evict(digest)
            self._drain_for(waiter if isinstance(answer, MustWait) else None)
        return head

    def _drain_for(self, head: _Waiter | None) -> None:
        """Close what must become idle for ``head``, once enough others have gone before it."""
        before = self._draining
        self._draining = frozenset()
        if head is not None and head.overtaken >= self._max_overtakes:
            self._draining = self._pool.plan_drain(head.wanted)
        if self._on_drain is not None and self._draining - before:
            # Not now: it gives leases back, which changes the queue that is being served.
            asyncio.get_running_loop().call_soon(self._on_drain, self._draining)

    def _may_overtake(self, waiter: _Waiter) -> bool:
        return self._pool.holds(waiter.wanted) and not any(
            c.digest in self._draining for c in waiter.wanted
        )

    def _start_prefetches(self) -> None:
        for waiter in tuple(self._prefetches):
            (wanted,) = waiter.wanted
            try:
                answer = self._pool.admit_prefetch(
                    wanted, spare_desired=wanted.digest in self._pool.desired
                )
            except AdapterError as error:
                self._prefetches.remove(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, MustEvict):
                for digest in answer.victims:
                    self._evict(digest)
                return
            self._prefetches.remove(waiter)
            if isinstance(answer, Admitted):
                self._start(waiter, answer)
            else:
                waiter.settle(AdapterCapacity(f"no room for {wanted.alias} beside what is in use"))

    def _start(self, waiter: _Waiter, answer: Admitted) -> None:
        waiter.lease = answer.lease
        for digest in answer.start:
            self._tasks[digest] = asyncio.create_task(self._load(digest))
        waiter.awaiting = {
            c.digest for c in waiter.wanted if self._pool.state(c.digest) is not AdapterState.READY
        }
        if waiter.awaiting:
            self._admitted.append(waiter)
        else:
            waiter.settle()

    def _report(self) -> None:
        events = self._pool.drain_events()
        if events and self._on_change is not None:
            self._on_change(events)

    # Loading and evicting

    async def _load(self, digest: AdapterDigest) -> None:
        slot: Slot | None = None
        error: AdapterError | None = None
        try:
            async with self._parallel:
                host = await self._fetch(self._catalog.by_digest(digest))
                self._pool.fetched(digest)
                self._refuse_if_closed()
                slot = self._pool.writing(digest)
                self._report()
                await self._run(self._bank.write, slot, host.tensors)
                self._pool.loaded(digest, self._bank.nbytes(slot))
        except AdapterError as refused:
            error = refused
        except Exception as unexpected:
            _log.exception("adapter_load_failed", digest=digest)
            error = AdapterLoadFailed(
                f"adapter {digest[:12]}: {type(unexpected).__name__}: {unexpected}"
            )
        if error is not None and slot is not None:
            await self._clear(slot)
        del self._tasks[digest]
        if error is None:
            self._settle_awaiting(digest)
        else:
            self._fail_awaiting(digest, error)
        self._pump()

    async def _fetch(self, entry: AdapterEntry) -> HostAdapterProtocol:
        limit = self._config.load_timeout_s
        try:
            return await asyncio.wait_for(self._run(self._loader, entry), limit)
        except TimeoutError as error:
            raise AdapterLoadFailed(
                f"adapter {entry.key.alias}: reading {entry.path} took longer than {limit:g} s"
            ) from error

    def _settle_awaiting(self, digest: AdapterDigest) -> None:
        for waiter in tuple(self._admitted):
            waiter.awaiting.discard(digest)
            if not waiter.awaiting:
                self._admitted.remove(waiter)
                waiter.settle()

    def _fail_awaiting(self, digest: AdapterDigest, error: AdapterError) -> None:
        for waiter in tuple(self._admitted):
            if digest not in waiter.awaiting:
                continue
            self._admitted.remove(waiter)
            if waiter.lease is not None:
                self._pool.release(waiter.lease.id)
            waiter.settle(error)
        self._pool.failed(digest, error)

    def _evict(self, digest: AdapterDigest) -> asyncio.Task[None]:
        """Clear the slot of a generation that the pool has moved to EVICTING."""
        task = asyncio.create_task(self._finish_evict(digest))
        self._tasks[digest] = task
        return task

    async def _finish_evict(self, digest: AdapterDigest) -> None:
        slot = self._pool.slot_of(digest)
        if slot is not None:
            await self._clear(slot)
        del self._tasks[digest]
        self._pool.evicted(digest)
        self._pump()

    async def _clear(self, slot: Slot) -> None:
        """A slot is written whole before it is used, so one that could not be cleared is free."""
        try:
            await self._run(self._bank.clear, slot)
        except Exception:
            _log.exception("adapter_slot_not_cleared", slot=slot)

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)
