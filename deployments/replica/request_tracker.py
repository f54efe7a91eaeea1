"""The requests of one replica, from the link to the engine and back.

Ownership of a request: from ``submit`` until its last chunk has been handed to ``deliver`` it is in
``_live``. The step that removes it from there ends it: it releases its leases and delivers a chunk
with a finish reason, exactly once.

A request waits twice: here for its adapters, then in the engine for its turn, with their leases.
Each waits here on its own, so none holds up another; ``residency.manager`` says in which order
slots are given. Where an adapter must leave for one that waits long, requests over it that do not
run are taken back from the engine and wait here again (``yield_leases``), those that yielded their
rows with their tokens. A deadline counts in both places, and so does a cancellation.

A request that was re-routed has several spans (``replica_rerouting``). Where its
tokens so far must be computed, because it comes from a lost replica or the engine has handed it
back, it needs the adapters of all of them at once. Where they cannot be had, the newest serve.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from cluster.adapters.residency.manager import AdapterManager
from cluster.clock import Clock
from cluster.domain.decision import SiteWeights
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.request import FinishReason, GenerationChunk, Usage
from cluster.engine.port import Engine
from cluster.errors import BraidError, Overloaded, ReplicaLost
from deployments.link.link_messages import Reroute, Submit
from deployments.replica.live_requests import LiveRequests
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import ReplicaRequest
from deployments.replica.replica_rerouting import ReplicaRerouting
from deployments.replica.request_admission import RequestAdmission, RequestEnded, SyncRouter
from deployments.replica.request_counters import RequestCounters, RerouteCounters
from deployments.replica.request_decisions import RequestDecisions
from deployments.replica.request_leases import RequestLeases, SyncAdapters
from deployments.replica.request_notes import ids_of, note_abandoned, note_end
from router_service.reader import DecisionReader

log = structlog.get_logger(__name__)

Deliver = Callable[[list[GenerationChunk]], None]


class RequestTracker:
    """Admits, tracks and ends requests. Everything but ``on_chunks`` runs on the event loop.

    It is the handler of the replica's links.

    Args:
        sync_adapters: syncs with the registry if a version is not known here yet.
        sync_router: does so if a router of this version is not.
        max_waiting: requests that may wait for their adapters at once; see ``LiveRequests``.
        deliver: hands chunks to the links; called on the event loop.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterManager,
        sync_adapters: SyncAdapters,
        sync_router: SyncRouter,
        reader: DecisionReader,
        mixing: DecisionMixing,
        max_waiting: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        deliver: Deliver,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._loop = loop
        self._deliver = deliver
        self._live = LiveRequests(max_waiting)
        self.counters = RequestCounters()
        rerouted = RerouteCounters()
        self._decisions = RequestDecisions(reader, self.counters)
        self._leases = RequestLeases(adapters, sync_adapters, clock, rerouted)
        self._admission = RequestAdmission(
            engine=engine,
            adapters=adapters,
            mixing=mixing,
            live=self._live,
            counters=self.counters,
            decisions=self._decisions,
            leases=self._leases,
            sync_router=sync_router,
            clock=clock,
        )
        self.rerouting = ReplicaRerouting(
            engine=engine,
            adapters=adapters,
            mixing=mixing,
            decisions=self._decisions,
            leases=self._leases,
            counters=rerouted,
            live=self._live,
            deliver=deliver,
        )

    # From the links

    def submit(self, message: Submit) -> None:
        """Take a request; its chunks, at least a last one, will be delivered."""
        request = ReplicaRequest(message, arrived=self._clock.monotonic())
        full = self._live.is_full_for(request)
        self._live.add(request)
        if full:
            most = self._live.max_waiting
            reason = f"{most} requests wait for their adapters on this replica; try again later"
            self._end(request, FinishReason.ERROR, Overloaded(reason))
        else:
            request.admission = asyncio.create_task(self._serve(request))

    def reroute(self, message: Reroute) -> None:
        """Continue a request under another decision; an unknown id has ended already."""
        request = self._live.get(message.request_id)
        if request is not None:
            self.rerouting.begin(request, message)

    def cancel(self, request_id: RequestId) -> None:
        """End a request whose client has gone; an unknown id has ended already."""
        request = self._live.get(request_id)
        if request is None:
            return
        if request.in_engine:
            request.cancelled = not self._engine.cancel(request_id)
        elif request.admission is not None:
            # Ended here, not by the task: one that has not begun would never see it.
            request.admission.cancel()
            self._end(request, FinishReason.CANCELLED, None)

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        """End the requests of a front that is lost."""
        for request_id in request_ids:
            request = self._live.get(request_id)
            if request is not None:
                note_abandoned(request)
                self.cancel(request_id)

    # The way of a request

    async def _serve(self, request: ReplicaRequest) -> None:
        """Bring a request into the engine; ``_relay`` brings its chunks back and ends it."""
        try:
            if await self._admission.admit(request):
                self.rerouting.resume(request)
            else:
                self._end(request, FinishReason.DEADLINE, None)
        except RequestEnded:
            return
        except asyncio.CancelledError:
            self._end(request, FinishReason.CANCELLED, None)
        except BraidError as error:
            if request.admitted:  # it was accepted, and another replica may be able to continue
                error = ReplicaLost(f"the replica cannot continue: {error.message}")
            self._end(request, FinishReason.ERROR, error)
        except Exception as error:
            log.error("replica.admission_failed", **ids_of(request), exc_info=error)
            self._end(request, FinishReason.ERROR, BraidError("the replica could not start it"))

    def on_chunks(self, chunks: list[GenerationChunk]) -> None:
        """Take one step's chunks: the engine's callback, in its step thread."""
        self._loop.call_soon_threadsafe(self._relay, chunks)

    def _relay(self, chunks: list[GenerationChunk]) -> None:
        told: list[GenerationChunk] = []
        for chunk in chunks:
            request = self._live.get(chunk.request_id)
            told.append(
                replace(chunk, site_weights=None) if chunk.site_weights is not None else chunk
            )
            if request is None:
                continue
            if chunk.finish_reason is not None:
                told[-1] = request.with_wait(told[-1])
            try:
                self._follow(request, chunk)
            except Exception as error:  # the other requests of the step get their chunks
                log.error("replica.chunk_failed", **ids_of(request), exc_info=error)
        self._deliver(told)

    def _follow(self, request: ReplicaRequest, chunk: GenerationChunk) -> None:
        """Do what a chunk means for its request."""
        if chunk.site_weights is not None:
            self._complete_decision(request, chunk.site_weights)
        if chunk.span_start is not None:
            self.rerouting.span_begun(request, chunk.span_start)
        request.tokens += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            self._close(request, chunk.finish_reason, chunk.error_code)
        elif request.earlier:
            self.rerouting.release_earlier(request)

    def _complete_decision(self, request: ReplicaRequest, weights: SiteWeights) -> None:
        """Keep what prefill has decided."""
        assert request.decision is not None
        request.decision = replace(request.decision, site_weights=weights)
        self._decisions.write_back(request.decision)

    # Back from the engine

    def yield_leases(self, digests: frozenset[AdapterDigest]) -> None:
        """Release the leases on ``digests`` of requests that do not run; they wait again.

        Those that have begun follow once the engine has handed them back.
        """
        for request in tuple(self._live.values()):
            lease = request.lease
            if lease is None or not request.in_engine or digests.isdisjoint(lease.digests):
                continue
            if self._engine.withdraw(request.id):
                self._wait_again(request)

    def on_returned(self, request_id: RequestId, token_ids: tuple[int, ...], usage: Usage) -> None:
        """Take a request that is to be submitted again, with all tokens of its completion.

        The engine's callback, in its step thread.
        """
        self._loop.call_soon_threadsafe(self._take_back, request_id, token_ids, usage)

    def _take_back(self, request_id: RequestId, token_ids: tuple[int, ...], usage: Usage) -> None:
        request = self._live.get(request_id)
        if request is None:
            return
        request.resume_after(token_ids, usage)
        self._wait_again(request)
        if request.cancelled:
            self.cancel(request_id)

    def _wait_again(self, request: ReplicaRequest) -> None:
        """Release the leases of a request that has left the engine, and admit it again."""
        self._live.leave_engine(request)
        self._leases.release_all(request)
        request.admission = asyncio.create_task(self._serve(request))

    # The end of a request

    def _end(self, request: ReplicaRequest, reason: FinishReason, error: BraidError | None) -> None:
        """End a request that is not in the engine, and deliver its last chunk."""
        if not self._live.has(request):
            return
        self._close(request, reason, None if error is None else error.code)
        chunk = GenerationChunk(
            request_id=request.id,
            finish_reason=reason,
            usage=request.usage,
            error_code=None if error is None else error.code,
            error_message=None if error is None else error.message,
        )
        self._deliver([request.with_wait(chunk)])

    def _close(self, request: ReplicaRequest, reason: FinishReason, code: str | None) -> None:
        self._live.remove(request)
        note_end(request, reason, code)
        self.rerouting.stop(request)
        self._leases.release_all(request)
        self.counters.count_end(reason)

    # For the replica

    @property
    def waiting_for_admission(self) -> int:
        """Return the number of requests that the engine does not know yet."""
        return self._live.waiting

    def backlog(self) -> Mapping[TenantId, int]:
        """Return the prompt tokens of the requests that the engine does not know yet, by tenant."""
        return self._live.backlog()

    def uses(self, digest: AdapterDigest) -> bool:
        """Report whether a live request has been decided on this version, or may have been."""
        return self._live.uses(digest)

    def uses_router(self, version: str) -> bool:
        """Report whether a live request has been decided by this router, or may have been."""
        return self._live.uses_router(version)

    def check_integrity(self) -> None:
        """Check the counts of waiting requests; see ``LiveRequests.check_integrity``."""
        self._live.check_integrity()

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until no request is live, at most ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._live.wait_idle()
        except TimeoutError:
            log.warning("replica.drain_incomplete", live=len(self._live))
