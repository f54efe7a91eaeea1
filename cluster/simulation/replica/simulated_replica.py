"""One simulated replica: the real adapter manager, an engine in virtual time, and what it tells.

The way of a request is that of ``deployments.replica``: it waits for a lease on its adapters, then
for its turn in the engine, and gives the lease back at its end.
"""

import asyncio
from dataclasses import dataclass

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import AdapterTier, Lease
from cluster.config import AdapterConfig
from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import FinishReason
from cluster.domain.work import WorkTotals
from cluster.errors import BraidError, Overloaded
from cluster.placement.cost.model import CostModel
from cluster.simulation.replica.announcer import Announcer
from cluster.simulation.replica.engine_exact import ExactEngine
from cluster.simulation.replica.engine_fast import FastEngine
from cluster.simulation.replica.engine_port import EngineWork, SequenceNews, SimulatedEngine
from cluster.simulation.replica.link_end import LinkEnd
from cluster.simulation.replica.simulated_adapters import SimulatedBank, SimulatedCatalog
from cluster.simulation.replica.step_pace import StepPace
from cluster.simulation.replica.tier_counts import count_tiers
from cluster.simulation.result import TierCounts, TierFound
from cluster.simulation.spec import Delays, ReplicaEngine, ReplicaSpec
from cluster.simulation.virtual.virtual_process import VirtualExecutor, VirtualProcess

_NO_WORK = WorkTotals()
_NEAREST_FIRST: tuple[AdapterTier, ...] = ("device", "loading", "host", "disk")


@dataclass(slots=True, eq=False)
class _Live:
    work: EngineWork
    digests: tuple[AdapterDigest, ...]
    tenant: TenantId
    link: LinkEnd
    task: asyncio.Task[None] | None = None
    lease: Lease | None = None
    in_engine: bool = False


class SimulatedReplica:
    """Serves requests in one process.

    Args:
        catalog: of all adapters there are.
        model, pace: what steps and loads really take.
    """

    def __init__(
        self,
        replica_id: ReplicaId,
        process: VirtualProcess,
        shape: ReplicaSpec,
        catalog: SimulatedCatalog,
        model: CostModel,
        pace: StepPace,
        delays: Delays,
        engine: ReplicaEngine,
    ) -> None:
        self.replica_id = replica_id
        self.process = process
        self.draining = False
        self._shape = shape
        self._delays = delays
        executor = VirtualExecutor(process)
        bank = SimulatedBank(catalog, shape.slots, model, executor)
        self.adapters = AdapterManager(
            AdapterConfig(
                slots=shape.slots,
                memory_bytes=shape.adapter_bytes,
                host_bytes=shape.host_bytes,
                share_window_s=shape.share_window_s,
                load_timeout_s=shape.load_timeout_s,
            ),
            catalog,
            bank,
            bank.read,
            process.clock,
            executor,
            on_change=lambda _: self._adapters_changed(),
            on_close_to_new=self._yield_leases,
            max_parallel_loads=shape.parallel_loads,
        )
        make = ExactEngine if engine == "exact" else FastEngine
        self.engine: SimulatedEngine = make(
            shape.engine,
            model.step,
            pace,
            bank.size,
            process,
            self._hear_engine,
        )
        self._live: dict[RequestId, _Live] = {}
        self._waiting = 0  # for adapters
        self._sequence = 0
        self._last: dict[RequestId, int] | None = None  # tokens by request, at its death
        self._last_counts: TierCounts | None = None
        self._changed = True  # since the last snapshot
        self._resident: tuple[ResidentAdapter, ...] = ()
        self._desired: frozenset[AdapterDigest] = frozenset()
        self._in_order: tuple[AdapterDigest, ...] = ()  # of those
        self._announcer = Announcer(self, process, delays)

    # From fronts

    def connect(self, link: LinkEnd) -> None:
        """Take a front's link, and greet it."""
        self._announcer.connect(link)

    def disconnect(self, link: LinkEnd) -> None:
        """End the link of a front that is lost, and its requests."""
        self._announcer.links.pop(link, None)
        for request_id in [r for r, live in self._live.items() if live.link is link]:
            self.cancel(request_id)

    def submit(self, work: EngineWork, digests: tuple[AdapterDigest, ...], link: LinkEnd) -> None:
        """Take a request; its link hears of its first token and of its end."""
        request = work.request
        live = _Live(work, digests, request.tenant, link)
        self._live[request.request_id] = live
        self._announcer.note_change()
        if self._waiting >= self._shape.engine.max_queued:
            self._end(request.request_id, FinishReason.ERROR, Overloaded.code)
        elif not self._begin(live):
            self._admit(live)

    def cancel(self, request_id: RequestId) -> None:
        """End a request that no front waits for; an unknown id has ended already."""
        live = self._live.get(request_id)
        if live is None:
            return
        if live.in_engine:
            self.engine.cancel(request_id)
        else:
            if live.task is not None:
                live.task.cancel()
            self._end(request_id, FinishReason.CANCELLED)

    def tier_of(self, digests: tuple[AdapterDigest, ...]) -> TierFound:
        """Return where the worst of these adapters is now."""
        tiers = [self.adapters.tier_of(digest) for digest in digests]
        return max(tiers, key=_NEAREST_FIRST.index, default="base")

    def generated(self, request_id: RequestId) -> int:
        """Return the tokens of a request so far, of a dead replica until its death."""
        if self._last is not None:
            return self._last.get(request_id, 0)
        return self.engine.generated(request_id)

    def die(self) -> None:
        """End the process, with all that it has."""
        self._last = {request_id: self.engine.generated(request_id) for request_id in self._live}
        self._last_counts = self.tier_counts()
        self.process.kill()
        for live in self._live.values():
            if live.task is not None:
                live.task.cancel()

    # The way of a request

    def _begin(self, live: _Live) -> bool:
        """Hand a request to the engine, or end it; False if its adapters are not there yet."""
        request = live.work.request
        try:
            live.lease = self.adapters.acquire_at_once(live.digests, live.tenant, request.weight)
            if live.lease is None:
                return False
            self.engine.submit(live.work._replace(slots=live.lease.slots))
        except BraidError as error:
            self._end(request.request_id, FinishReason.ERROR, error.code)
        else:
            live.in_engine = True
        return True

    def _admit(self, live: _Live) -> None:
        live.in_engine = False
        self._waiting += 1
        live.task = self.process.loop.create_task(self._serve(live))

    async def _serve(self, live: _Live) -> None:
        request_id = live.work.request.request_id
        deadline = live.work.request.deadline_at
        assert deadline is not None
        left = deadline - self.process.clock.monotonic()
        try:
            # A wait for a lease ends by itself, so that most requests need no other timer.
            async with asyncio.timeout(left if left <= self._shape.load_timeout_s else None):
                weight = live.work.request.weight
                live.lease = await self.adapters.acquire(live.digests, live.tenant, weight)
            if self._live.get(request_id) is not live or not self.process.alive:
                return
            self.engine.submit(live.work._replace(slots=live.lease.slots))
        except TimeoutError:
            self._end(request_id, FinishReason.DEADLINE)
        except BraidError as error:
            self._end(request_id, FinishReason.ERROR, error.code)
        else:
            live.in_engine = True
            self._waiting -= 1

    def _hear_engine(self, news: list[SequenceNews]) -> None:
        self._announcer.note_change()
        told: dict[LinkEnd, list[SequenceNews]] = {}
        for item in news:
            told.setdefault(self._live[item.request_id].link, []).append(item)
            if item.reason is not None:
                self._close(item.request_id)
        self._deliver(told)

    def _deliver(self, told: dict[LinkEnd, list[SequenceNews]]) -> None:
        hop_s = self._delays.hop_s
        for link, items in told.items():
            if link in self._announcer.links:
                link.process.after(hop_s, link.hear_step, self.replica_id, items, *self.load)

    def _end(self, request_id: RequestId, reason: FinishReason, error: str | None = None) -> None:
        """End a request that is not in the engine."""
        live = self._live.get(request_id)
        if live is None or not self.process.alive:
            return
        link = live.link
        generated = len(live.work.request.resumed_token_ids)
        self._announcer.note_change()
        self._close(request_id)
        self._deliver({link: [SequenceNews(request_id, generated, reason=reason, error=error)]})

    def _close(self, request_id: RequestId) -> None:
        live = self._live.pop(request_id)
        if not live.in_engine and live.task is not None:
            self._waiting -= 1
        if live.lease is not None:
            self.adapters.release(live.lease)

    def _yield_leases(self, digests: frozenset[AdapterDigest]) -> None:
        """Let requests that have not begun wait again, where they hold one of these adapters."""
        for request_id, live in tuple(self._live.items()):
            if live.lease is None or not live.in_engine or digests.isdisjoint(live.digests):
                continue
            if self.engine.withdraw(request_id):
                lease, live.lease = live.lease, None
                self.adapters.release(lease)
                self._admit(live)

    # Its account of itself

    @property
    def load(self) -> tuple[int, int]:
        """Return the requests that run and that wait."""
        return self.engine.running, self.engine.waiting + self._waiting

    @property
    def host_version(self) -> int:
        """Return a number that changes whenever ``on_host`` does."""
        return self.adapters.host_version

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """Return the adapters in its host memory."""
        return self.adapters.on_host()

    def snapshot(self, *, work: bool = True) -> ReplicaSnapshot:
        """Return a snapshot; without ``work``, the totals of its work are left out."""
        self._sequence += 1
        shape, engine = self._shape, self.engine
        desired, version = self.adapters.desired
        if desired is not self._desired:
            self._desired, self._in_order = desired, tuple(sorted(desired))
        if self._changed or self._live:
            self._resident = self.adapters.resident(self._resident)
            self._changed = False
        return ReplicaSnapshot(
            replica_id=self.replica_id,
            address="",
            queued=engine.waiting + self._waiting,
            running=engine.running,
            kv_blocks_total=shape.engine.usual_kv_blocks,
            kv_blocks_free=engine.kv_blocks_free,
            slots_total=shape.slots,
            adapter_bytes_limit=shape.adapter_bytes,
            adapter_bytes_used=self.adapters.bytes_used,
            resident=self._resident,
            draining=self.draining,
            desired=self._in_order,
            desired_version=version,
            max_model_len=engine.max_model_len,
            host_bytes_limit=shape.host_bytes,
            host_bytes_used=self.adapters.host_bytes_used,
            sequence=self._sequence,
            max_batch_size=shape.engine.max_batch_size,
            backlog=tuple(sorted(engine.backlog().items())),
            loading_bytes=self.adapters.loading_bytes,
            eviction_age_s=self.adapters.eviction_age_s,
            prefix_age_s=engine.prefix_age_s,
            work=self._work() if work else _NO_WORK,
            block_size=shape.engine.block_size,
        )

    def _work(self) -> WorkTotals:
        loads = self.adapters.loads
        return WorkTotals(self.engine.totals, loads.host, loads.disk)

    def tier_counts(self) -> TierCounts:
        """Return the sums of its loads, evictions and steps."""
        if self._last_counts is not None:
            return self._last_counts
        return count_tiers(self.adapters, self.engine)

    @property
    def idle(self) -> bool:
        """Report whether it has no request."""
        return not self._live

    def drain(self) -> None:
        """Announce that it is about to leave; it finishes the requests that it has."""
        self.draining = True
        self._announcer.publish()

    def _adapters_changed(self) -> None:
        self._changed = True
        self._announcer.publish()
