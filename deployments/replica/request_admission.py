"""The way of a request at a replica, from its arrival into the engine."""

import asyncio
from collections.abc import Awaitable, Callable

from cluster.adapters.residency.manager import AdapterManager
from cluster.clock import Clock
from cluster.engine.port import Engine
from deployments.replica.live_requests import LiveRequests
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import LaterSpan, ReplicaRequest
from deployments.replica.request_counters import RequestCounters
from deployments.replica.request_decisions import RequestDecisions
from deployments.replica.request_leases import RequestLeases
from deployments.replica.request_spans import request_spans

SyncRouter = Callable[[str], Awaitable[None]]
"""Syncs with the registry if no router of this version is known here yet."""


class RequestEnded(Exception):
    """The request ended while one of its steps waited; the step has undone itself."""


class RequestAdmission:
    """Admits requests, each in a task of its own; ``RequestTracker`` starts and ends these."""

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterManager,
        mixing: DecisionMixing,
        live: LiveRequests,
        counters: RequestCounters,
        decisions: RequestDecisions,
        leases: RequestLeases,
        sync_router: SyncRouter,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._mixing = mixing
        self._live = live
        self._counters = counters
        self._decisions = decisions
        self._leases = leases
        self._sync_router = sync_router
        self._clock = clock

    async def admit(self, request: ReplicaRequest) -> bool:
        """Bring a request into the engine. Returns False if its deadline came first.

        Cancelling the caller may come to nothing: before Python 3.12 ``asyncio.wait_for``, which
        the Redis client uses, swallows a cancellation that comes just after what it waits for. So
        each step that waits checks afterwards that the request has not ended.

        Raises:
            RequestEnded: it has; nothing of it is left behind.
            BraidError: it cannot be served here.
        """
        await self._read_decisions(request)
        await self._sync_routers(request)
        if not await self._lease_adapters(request):
            return False
        await self._submit_to_engine(request)
        return True

    async def _read_decisions(self, request: ReplicaRequest) -> None:
        """Read the decision of each span, once in a request's life."""
        if request.decision is not None:
            return
        message, tenant = request.submit, request.tenant
        decision = await self._decisions.read(tenant, message.signed_decision)
        later = [
            LaterSpan(span.start, await self._decisions.read(tenant, span.signed_decision))
            for span in message.spans
        ]
        self._check_live(request)
        request.decision, request.later = decision, later
        self._counters.requests_arrived += 1

    async def _sync_routers(self, request: ReplicaRequest) -> None:
        """Sync if the front decided by a router that is not known here yet."""
        assert request.decision is not None
        if self._mixing.lacks(request.decision):
            await self._sync_router(request.decision.router_version)
            self._check_live(request)

    async def _lease_adapters(self, request: ReplicaRequest) -> bool:
        """Wait for a lease on the adapters. Returns False if the deadline came first."""
        lease = await self._leases.acquire_all(request)
        if lease is not None and not self._live.has(request):
            self._leases.release(lease)
        self._check_live(request)
        request.lease = lease
        return lease is not None

    async def _submit_to_engine(self, request: ReplicaRequest) -> None:
        """Cut the request into spans, compile its grammar, and submit it."""
        (first, *following), mixing = request_spans(self._mixing, self._adapters, request)
        asked = request.generation_request()
        if asked.sampling.grammar:
            await asyncio.to_thread(self._engine.compile_grammar, asked)
            self._check_live(request)
        self._engine.submit(
            asked, first.namespace, first.adapters, mixing, following, before=request.before
        )
        if request.before is None:
            request.admitted = self._clock.monotonic()
        self._live.enter_engine(request)

    def _check_live(self, request: ReplicaRequest) -> None:
        if not self._live.has(request):
            raise RequestEnded
