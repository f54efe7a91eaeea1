"""The requests of one replica: decision, leases, engine, and the way back.

Ownership of a request: from ``submit`` until its last chunk has been handed to ``deliver`` it is in
``_live``. Whoever removes it from there ends it: releases its leases and delivers a chunk with a
finish reason, exactly once.

A request waits twice: here for its adapters, then in the engine for its turn, holding them. Each
waits here on its own, so none holds up another; ``residency.manager`` says in which order
slots are given. Where an adapter must leave for one that waits long, requests over it that have
not begun are taken back from the engine and wait here again (``give_way``). A deadline counts in
both places, and so does a cancellation.

A request that was re-routed has several spans (``replica_rerouting``). Where its
tokens so far must be computed, because it comes from a lost replica or the engine has handed it
back, it needs the adapters of all of them at once. Where they cannot be had, the newest serve.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec
import structlog

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import Lease
from cluster.clock import Clock
from cluster.domain.decision import RoutingDecision, SiteWeights
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.replica import AdapterLoad
from cluster.domain.request import FinishReason, GenerationChunk, Usage
from cluster.engine.port import Engine
from cluster.engine.spans import Span
from cluster.errors import (
    AdapterError,
    BraidError,
    DecisionRejected,
    IntegrityError,
    ModelNotFound,
    Overloaded,
    ReplicaLost,
    StoreUnavailable,
)
from deployments.link.link_messages import Reroute, Submit
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import LaterSpan, Live
from deployments.replica.replica_rerouting import Rerouting
from deployments.replica.request_notes import ids_of, note_abandoned, note_end
from deployments.replica.spans import completion_span, prompt_spans
from router_service.decision_store.decision_store import Origin
from router_service.reader import DecisionReader

log = structlog.get_logger(__name__)

Deliver = Callable[[list[GenerationChunk]], None]
BASE = AdapterDigest("")


@dataclass(slots=True)
class _Load:
    arrived: int = 0
    tokens: int = 0


@dataclass(slots=True)
class RequestCounters:
    """Cumulative numbers for metrics."""

    requests_arrived: int = 0
    decisions_local: int = 0
    decisions_store: int = 0
    decisions_carried: int = 0
    decisions_rejected: int = 0
    decisions_completed: int = 0  # in prefill, and written to the store
    decisions_not_written: int = 0  # in prefill, and the store was away
    requests_finished: int = 0
    requests_failed: int = 0
    requests_cancelled: int = 0

    def count_decision(self, origin: Origin) -> None:
        """Count a decision by where it was read."""
        match origin:
            case Origin.LOCAL:
                self.decisions_local += 1
            case Origin.STORE:
                self.decisions_store += 1
            case _:
                self.decisions_carried += 1

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """By name."""
        return tuple((name, float(getattr(self, name))) for name in self.__slots__)


class RequestBook:
    """Admits, tracks and ends requests. Everything but ``on_chunks`` runs on the event loop.

    Args:
        ensure: catches up with the registry where a version is not known here yet.
        ensure_router: does so where a router of this version is not.
        max_waiting: requests that may wait for their adapters at once; beyond it only tenants are
            let in that have less than an equal share of them.
        deliver: hands chunks to the links; called on the event loop.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterManager,
        ensure: Callable[[tuple[AdapterDigest, ...]], Awaitable[None]],
        ensure_router: Callable[[str], Awaitable[None]],
        reader: DecisionReader,
        mixing: DecisionMixing,
        max_waiting: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        deliver: Deliver,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._ensure = ensure
        self._ensure_router = ensure_router
        self._reader = reader
        self._mixing = mixing
        self._max_waiting = max_waiting
        self._clock = clock
        self._loop = loop
        self._deliver = deliver
        self._live: dict[RequestId, Live] = {}
        self._waiting: Counter[TenantId] = Counter()  # live, not in the engine
        self._idle = asyncio.Event()
        self._idle.set()
        self._writing: set[asyncio.Task[None]] = set()  # decisions on their way to the store
        self._loads: dict[tuple[AdapterDigest, TenantId], _Load] = {}
        self.counters = RequestCounters()
        self.rerouting = Rerouting(
            engine=engine,
            adapters=adapters,
            mixing=mixing,
            read=self._read_decision,
            hold=self._hold,
            is_live=self._is_live,
            deliver=deliver,
        )

    @property
    def waiting_for_admission(self) -> int:
        """Requests that the engine does not know yet: their adapters are on the way."""
        return self._waiting.total()

    def loads(self) -> tuple[AdapterLoad, ...]:
        """Cumulative load by adapter and tenant, in a stable order."""
        return tuple(
            AdapterLoad(digest, tenant, load.arrived, load.tokens)
            for (digest, tenant), load in sorted(self._loads.items())
        )

    def forget(self, digest: AdapterDigest) -> None:
        """Drop the counts of a version that has gone; none of its requests is live."""
        for key in [key for key in self._loads if key[0] == digest]:
            del self._loads[key]

    def uses(self, digest: AdapterDigest) -> bool:
        """Whether a live request has been decided on this version, or may have been."""
        for live in self._live.values():
            coming = live.coming
            if live.decision is None or digest in live.digests:
                return True
            if coming and (coming.decision is None or digest in coming.decision.digests):
                return True
        return False

    def uses_router(self, version: str) -> bool:
        """Whether a live request has been decided by a router of this version, or may have been."""
        return any(
            live.decision is None or live.decision.router_version == version
            for live in self._live.values()
        )

    def submit(self, message: Submit) -> None:
        """Take a request; its chunks, at least a last one, will be delivered."""
        live = Live(message, arrived=self._clock.monotonic())
        full = self._is_full_for(message.tenant)
        self._live[message.request_id] = live
        self._waiting[message.tenant] += 1
        self._idle.clear()
        if full:
            reason = f"{self._max_waiting} requests wait for their adapters on this replica"
            self._end(live, FinishReason.ERROR, Overloaded(reason))
        else:
            live.admission = asyncio.create_task(self._admit(live))

    def reroute(self, message: Reroute) -> None:
        """Let a request go on by another decision; an unknown id has ended already."""
        live = self._live.get(message.request_id)
        if live is not None:
            self.rerouting.ask(live, message)

    def give_way(self, digests: frozenset[AdapterDigest]) -> None:
        """Give up the leases on ``digests`` of requests that have not begun; they wait again."""
        for live in tuple(self._live.values()):
            lease = live.lease
            if lease is None or not live.in_engine or digests.isdisjoint(lease.digests):
                continue
            if self._engine.withdraw(live.submit.request_id):
                self._wait_again(live)

    def _wait_again(self, live: Live) -> None:
        """A request has left the engine, and holds nothing until it comes in again."""
        live.in_engine = False
        self._waiting[live.submit.tenant] += 1
        for lease in live.leases():
            self._adapters.release(lease)
        live.admission = asyncio.create_task(self._admit(live))

    def abandon(self, request_id: RequestId) -> None:
        """End a request whose front has gone."""
        live = self._live.get(request_id)
        if live is not None:
            note_abandoned(live)
            self.cancel(request_id)

    def cancel(self, request_id: RequestId) -> None:
        """End a request whose client has gone; an unknown id has ended already."""
        live = self._live.get(request_id)
        if live is None:
            return
        if live.in_engine:
            live.cancelled = not self._engine.cancel(request_id)
        elif live.admission is not None:
            # Ended here, not by the task: one that has not begun would never see it.
            live.admission.cancel()
            self._end(live, FinishReason.CANCELLED, None)

    def on_chunks(self, chunks: list[GenerationChunk]) -> None:
        """The engine's callback, in its step thread."""
        self._loop.call_soon_threadsafe(self._relay, chunks)

    def on_returned(self, request_id: RequestId, token_ids: tuple[int, ...]) -> None:
        """The engine's callback, in its step thread: a request that is to be submitted again, with
        all tokens of its completion."""
        self._loop.call_soon_threadsafe(self._take_back, request_id, token_ids)

    def _take_back(self, request_id: RequestId, token_ids: tuple[int, ...]) -> None:
        live = self._live.get(request_id)
        if live is None:
            return
        resumed = replace(live.submit.request, resumed_token_ids=token_ids)
        live.submit = msgspec.structs.replace(live.submit, request=resumed)
        live.returned = True
        self._wait_again(live)
        if live.cancelled:
            self.cancel(request_id)

    def check_integrity(self) -> None:
        """Check that those that wait are those that are live and not in the engine.

        Raises:
            IntegrityError: with both numbers.
        """
        waiting = Counter(live.submit.tenant for live in self._live.values() if not live.in_engine)
        if waiting != self._waiting:
            raise IntegrityError(
                f"{self._waiting.total()} requests are counted as waiting for the engine, "
                f"expected {waiting.total()}"
            )

    async def drain(self, timeout_s: float) -> None:
        """Wait until no request is live, at most ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("replica.drain_incomplete", live=len(self._live))

    def _relay(self, chunks: list[GenerationChunk]) -> None:
        for index, chunk in enumerate(chunks):
            live = self._live.get(chunk.request_id)
            if chunk.site_weights is not None:
                chunks[index] = replace(chunk, site_weights=None)
                if live is not None:
                    self._complete(live, chunk.site_weights)
            if live is None:
                continue
            if chunk.span_start is not None:
                self._credit(live)
                self.rerouting.begun(live, chunk.span_start)
                self._count_demand(live)
            live.tokens += len(chunk.token_ids)
            if chunk.finish_reason is not None:
                chunks[index] = self._with_wait(live, chunks[index])
                self._close(chunk.request_id, live, chunk.finish_reason, chunk.error_code)
            elif live.earlier:
                self.rerouting.let_go(live)
        self._deliver(chunks)

    @staticmethod
    def _with_wait(live: Live, chunk: GenerationChunk) -> GenerationChunk:
        """Add the wait for adapters to what the engine knows of."""
        usage = chunk.usage
        if usage is None or usage.queued_s is None:
            return chunk
        queued = usage.queued_s + live.admitted - live.arrived
        return replace(chunk, usage=replace(usage, queued_s=queued))

    def _complete(self, live: Live, weights: SiteWeights) -> None:
        """Keep what prefill has decided, so that no retry, repeat or other replica asks again."""
        assert live.decision is not None
        live.decision = replace(live.decision, site_weights=weights)
        task = asyncio.create_task(self._write_back(live.decision))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_back(self, decision: RoutingDecision) -> None:
        try:
            await self._reader.complete(decision)
            self.counters.decisions_completed += 1
        except StoreUnavailable as error:
            self.counters.decisions_not_written += 1
            log.warning("replica.decision_not_written", id=decision.id, reason=error.message)

    async def _admit(self, live: Live) -> None:
        """Bring a request into the engine.

        Cancelling this task may come to nothing: before Python 3.12 ``asyncio.wait_for``, which
        the Redis client uses, swallows a cancellation that comes just after what it waits for. So
        after each wait the request may have ended.
        """
        message = live.submit
        try:
            if live.decision is None:
                decision = await self._read_decision(message, message.signed_decision)
                later = [
                    LaterSpan(s.start, await self._read_decision(message, s.signed_decision))
                    for s in message.spans
                ]
                if not self._is_live(live):
                    return
                live.decision, live.later = decision, later
                self.counters.requests_arrived += 1
                self._count_demand(live)
            await self._sync_router(live.decision)
            if not self._is_live(live):
                return
            lease = await self._hold_all(live)
            if not self._is_live(live):
                if lease is not None:
                    self._adapters.release(lease)
                return
            live.lease = lease
            if live.lease is None:
                self._end(live, FinishReason.DEADLINE, None)
                return
            prompt = message.request.prompt_token_ids
            (first, *activated), mixing = prompt_spans(
                self._mixing, self._adapters, live.decision, live.lease, prompt
            )
            request = replace(message.request, decision=live.decision)
            if message.request.sampling.grammar:
                await asyncio.to_thread(self._engine.compile_grammar, request)
                if not self._is_live(live):
                    return
            self._engine.submit(
                request,
                first.namespace,
                first.adapters,
                mixing,
                [*activated, *self._later_spans(live, live.lease)],
            )
            live.in_engine = True
            live.admitted = live.admitted or self._clock.monotonic()
            self._stop_waiting(message.tenant)
            self.rerouting.resume(live)
        except asyncio.CancelledError:
            self._end(live, FinishReason.CANCELLED, None)
        except BraidError as error:
            if live.returned:  # another replica may be able to go on
                error = ReplicaLost(f"the replica cannot go on: {error.message}")
            self._end(live, FinishReason.ERROR, error)
        except Exception as error:
            log.error("replica.admission_failed", **ids_of(live), exc_info=error)
            self._end(live, FinishReason.ERROR, BraidError("the replica could not start it"))

    async def _sync_router(self, decision: RoutingDecision) -> None:
        """Sync if the front knows a router that has not come here yet."""
        if self._mixing.lacks(decision):
            await self._ensure_router(decision.router_version)

    def _later_spans(self, live: Live, lease: Lease) -> list[Span]:
        prompt = live.submit.request.prompt_token_ids
        return [
            completion_span(
                self._mixing,
                self._adapters,
                later.decision,
                lease,
                prompt,
                len(prompt) + later.start,
            )[0]
            for later in live.later
        ]

    async def _hold_all(self, live: Live) -> Lease | None:
        """A lease on the adapters of all spans; None when the deadline came first."""
        try:
            return await self._hold(live, live.digests)
        except (AdapterError, ModelNotFound) as error:
            if not live.later:
                raise
            log.warning("replica.replay_reduced", **ids_of(live), reason=error.message)
        self.rerouting.counters.replays_reduced += 1
        live.decision, live.later = live.newest, []
        return await self._hold(live, live.digests)

    async def _hold(self, live: Live, digests: tuple[AdapterDigest, ...]) -> Lease | None:
        """A lease on adapters that the front knew; None when the deadline came first."""
        await self._ensure(digests)
        return await self._acquire(digests, live.submit.tenant, live.submit.request.deadline_at)

    async def _acquire(
        self, digests: tuple[AdapterDigest, ...], tenant: TenantId, deadline_at: float | None
    ) -> Lease | None:
        """A lease, or None when the deadline (wall clock, seconds) came first."""
        if deadline_at is None:
            return await self._adapters.acquire(digests, tenant)
        try:
            async with asyncio.timeout(deadline_at - self._clock.wall()):
                return await self._adapters.acquire(digests, tenant)
        except TimeoutError:
            return None

    def _is_live(self, live: Live) -> bool:
        return self._live.get(live.submit.request_id) is live

    def _is_full_for(self, tenant: TenantId) -> bool:
        if self._waiting.total() < self._max_waiting:
            return False
        tenants = len(self._waiting) + (tenant not in self._waiting)
        return self._waiting[tenant] * tenants >= self._max_waiting

    def _stop_waiting(self, tenant: TenantId) -> None:
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]

    async def _read_decision(self, message: Submit, carried: bytes) -> RoutingDecision:
        try:
            stored = await self._reader.read(carried)
        except DecisionRejected:
            self.counters.decisions_rejected += 1
            raise
        if stored.decision.tenant != message.tenant:
            self.counters.decisions_rejected += 1
            raise DecisionRejected("the decision belongs to another tenant")
        self.counters.count_decision(stored.origin)
        return stored.decision

    def _end(self, live: Live, reason: FinishReason, error: BraidError | None) -> None:
        """End a request that the engine does not hold."""
        request_id = live.submit.request_id
        if not self._is_live(live):
            return
        self._close(request_id, live, reason, None if error is None else error.code)
        generated = len(live.submit.request.resumed_token_ids)
        self._deliver(
            [
                GenerationChunk(
                    request_id=request_id,
                    finish_reason=reason,
                    usage=Usage(len(live.submit.request.prompt_token_ids), generated),
                    error_code=None if error is None else error.code,
                    error_message=None if error is None else error.message,
                )
            ]
        )

    def _close(
        self, request_id: RequestId, live: Live, reason: FinishReason, code: str | None
    ) -> None:
        del self._live[request_id]
        note_end(live, reason, code)
        if not live.in_engine:
            self._stop_waiting(live.submit.tenant)
        if not self._live:
            self._idle.set()
        self.rerouting.stop(live)
        for lease in live.leases():
            self._adapters.release(lease)
        self._credit(live)
        match reason:
            case FinishReason.ERROR | FinishReason.DEADLINE:
                self.counters.requests_failed += 1
            case FinishReason.CANCELLED:
                self.counters.requests_cancelled += 1
            case _:
                self.counters.requests_finished += 1

    def _credit(self, live: Live) -> None:
        """Credit the newest tokens to the adapters that they were computed with."""
        if live.newest is not None:
            for digest in live.newest.digests or (BASE,):
                self._loads[digest, live.submit.tenant].tokens += live.tokens - live.booked
        live.booked = live.tokens

    def _count_demand(self, live: Live) -> None:
        assert live.newest is not None
        for digest in live.newest.digests or (BASE,):
            self._loads.setdefault((digest, live.submit.tenant), _Load()).arrived += 1
