"""Whose requests get their adapters now: leases in turn, then prefetches, and reading ahead.

Runs on the event loop of ``residency.manager``, which owns it. What overtakes the first in
line and what is released beside it, both with adapters, are counted: after ``max_overtakes`` enough
adapters are closed to newcomers until they are idle, and ``on_drain`` tells which, so that leases
of requests that have not begun can be given back. So the first in line waits for at most
``max_overtakes`` others and then for what is being decoded over the adapters that are used least;
nobody starves, and no two requests wait for each other.
"""

import asyncio
from collections.abc import Callable

from cluster.adapters.residency.host_tier import HostTier
from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.pool_types import Admitted, MustEvict, MustWait
from cluster.adapters.residency.protocols import AdapterBankProtocol, VersionSource
from cluster.adapters.residency.slot_loads import Run, SlotLoads
from cluster.adapters.residency.waiting import Waiter, in_turn
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterCapacity, AdapterError, BraidError, IntegrityError


class AdapterLine:
    """See the module.

    Args:
        report: tells about changes of state.
        proceed: raises ``AdapterError`` when the manager is closed.
    """

    def __init__(
        self,
        pool: AdapterPool,
        bank: AdapterBankProtocol,
        host: HostTier,
        catalog: VersionSource,
        run: Run,
        *,
        report: Callable[[], None],
        proceed: Callable[[], None],
        on_drain: Callable[[frozenset[AdapterDigest]], None] | None,
        max_parallel_loads: int,
        max_overtakes: int,
    ) -> None:
        self._pool = pool
        self._host = host
        self._catalog = catalog
        self._report = report
        self._on_drain = on_drain
        self._max_overtakes = max_overtakes
        self.loads = SlotLoads(
            pool,
            bank,
            host,
            run,
            entry_of=catalog.by_digest,
            proceed=proceed,
            on_step=report,
            on_end=self._load_ended,
            on_gone=lambda _: self.pump(),
            max_parallel=max_parallel_loads,
        )
        self.queue: list[Waiter] = []  # want a lease, in order of arrival
        self.prefetches: list[Waiter] = []  # want room without a lease; served after the queue
        self.admitted: list[Waiter] = []  # have room, await their loads
        self._head: Waiter | None = None  # the first that waits for room
        self._draining: frozenset[AdapterDigest] = frozenset()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait for room or for a load."""
        return len(self.queue) + sum(waiter.lease is not None for waiter in self.admitted)

    def pump(self) -> None:
        """Grant whatever can be granted now; called after every change."""
        self._head = self._grant_leases()
        if self._head is None:
            self._draining = frozenset()
            self._start_prefetches()
        self.read_ahead()
        self._report()

    def _grant_leases(self) -> Waiter | None:
        """Serve the queue; the first that must wait for room, if any."""
        head: Waiter | None = None
        for waiter in in_turn(self.queue, self._pool.holds, self._pool.is_within_share):
            if head is not None and not self._may_overtake(waiter):
                continue
            try:
                answer = self._pool.admit(waiter.wanted, waiter.tenant)
            except AdapterError as error:
                self.queue.remove(waiter)
                self._let_go(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, Admitted):
                self.queue.remove(waiter)
                if head is not None and waiter.wanted:
                    head.overtaken += 1
                self._start(waiter, answer)
                continue
            head = waiter
            if isinstance(answer, MustEvict):
                for digest in answer.victims:
                    self.loads.evict(digest)
            self._drain_for(waiter if isinstance(answer, MustWait) else None)
        return head

    def _drain_for(self, head: Waiter | None) -> None:
        """Close what must become idle for ``head``, once enough others have gone before it."""
        before = self._draining
        self._draining = frozenset()
        if head is not None and head.overtaken >= self._max_overtakes:
            self._draining = self._pool.plan_drain(head.wanted, head.tenant)
        if self._on_drain is not None and self._draining - before:
            # Not now: it gives leases back, which changes the queue that is being served.
            asyncio.get_running_loop().call_soon(self._on_drain, self._draining)

    def _may_overtake(self, waiter: Waiter) -> bool:
        return self._pool.holds(waiter.wanted) and not any(
            c.digest in self._draining for c in waiter.wanted
        )

    def _start_prefetches(self) -> None:
        for waiter in tuple(self.prefetches):
            (wanted,) = waiter.wanted
            try:
                answer = self._pool.admit_prefetch(wanted, gently=waiter.gently)
            except AdapterError as error:
                self.prefetches.remove(waiter)
                waiter.settle(error)
                continue
            if isinstance(answer, MustEvict):
                for digest in answer.victims:
                    self.loads.evict(digest)
                return
            self.prefetches.remove(waiter)
            if isinstance(answer, Admitted):
                self._start(waiter, answer)
            else:
                waiter.settle(AdapterCapacity(f"no room for {wanted.alias} beside what is in use"))

    def _start(self, waiter: Waiter, answer: Admitted) -> None:
        waiter.lease = answer.lease
        for digest in answer.start:
            self.loads.load(digest, None if waiter.lease is None else waiter.tenant)
        self._let_go(waiter)
        waiter.awaiting = {
            c.digest for c in waiter.wanted if self._pool.state(c.digest) is not AdapterState.READY
        }
        if waiter.awaiting:
            self.admitted.append(waiter)
        else:
            waiter.settle()

    def released(self) -> None:
        """A lease on adapters has ended."""
        if self._head is not None:
            self._head.overtaken += 1
        self.pump()

    def abandon(self, waiter: Waiter) -> None:
        """Whoever asked is gone: hold nothing for them. Loads under way go on."""
        for queue in (self.queue, self.admitted):
            if waiter in queue:
                queue.remove(waiter)
        self._let_go(waiter)
        if waiter.lease is not None:
            self._pool.release(waiter.lease.id)
        self.pump()

    def _let_go(self, waiter: Waiter) -> None:
        """End its holds on the host tier."""
        for hold in waiter.holds:
            self._host.unhold(hold)
        waiter.holds.clear()

    def read_ahead(self) -> None:
        """Read into the host tier what the next in line will need, one version at a time."""
        if self._closed or self._host.is_prefetching:
            return
        for waiter in in_turn(self.queue, self._pool.holds, self._pool.is_within_share):
            for candidate in waiter.wanted:
                digest = candidate.digest
                if digest in waiter.tried or self._pool.slot_of(digest) is not None:
                    continue
                waiter.tried.add(digest)
                try:
                    entry = self._catalog.by_digest(digest)
                except BraidError:
                    continue  # who waits for it will be told
                started = digest not in self._host and self._host.prefetch(
                    entry, waiter.tenant, self.read_ahead
                )
                hold = self._host.hold(digest)
                if hold is not None:
                    waiter.holds.append(hold)
                if started:
                    return

    def _load_ended(self, digest: AdapterDigest, error: AdapterError | None) -> None:
        if error is None:
            self._settle_awaiting(digest)
        else:
            self._fail_awaiting(digest, error)
        self.pump()

    def _settle_awaiting(self, digest: AdapterDigest) -> None:
        for waiter in tuple(self.admitted):
            waiter.awaiting.discard(digest)
            if not waiter.awaiting:
                self.admitted.remove(waiter)
                waiter.settle()

    def _fail_awaiting(self, digest: AdapterDigest, error: AdapterError) -> None:
        for waiter in tuple(self.admitted):
            if digest not in waiter.awaiting:
                continue
            self.admitted.remove(waiter)
            if waiter.lease is not None:
                self._pool.release(waiter.lease.id)
            waiter.settle(error)
        self._pool.failed(digest, error)

    def close(self, error: AdapterError) -> None:
        """End all waiting; loads under way go on."""
        self._closed = True
        for waiter in (*self.queue, *self.prefetches):
            waiter.settle(error)
            self._let_go(waiter)
        self.queue.clear()
        self.prefetches.clear()
        for waiter in tuple(self.admitted):
            waiter.settle(error)
            self.abandon(waiter)

    def check_integrity(self) -> None:
        """Verify that pool, tasks and waiters agree.

        Raises:
            IntegrityError: with both numbers.
        """
        states = {r.digest: r.state for r in self._pool.residents()}
        busy = {digest for digest, state in states.items() if state is not AdapterState.READY}
        tasks = self.loads.tasks
        if busy != tasks.keys():
            raise IntegrityError(
                f"adapter manager: {len(tasks)} tasks, expected {len(busy)}, one for each adapter "
                "that is coming or going"
            )
        for waiter in self.admitted:
            if not waiter.awaiting or not waiter.awaiting <= busy:
                raise IntegrityError(
                    f"adapter manager: a waiter awaits {sorted(waiter.awaiting)}, "
                    f"but {sorted(busy)} are on their way"
                )
