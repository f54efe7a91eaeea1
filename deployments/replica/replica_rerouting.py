"""Running requests that continue with other adapters.

The new adapters are leased, and so loaded, while decoding continues with the old ones; then the
engine hears from which token on. Once that token is computed the lease is the request's own, and
the one before ends as soon as the engine can do without. A re-route that fails leaves
the request as it is, and is answered with a reason.
"""

import asyncio
from collections.abc import Callable

import structlog

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import Lease
from cluster.domain.decision import RoutingDecision
from cluster.domain.request import GenerationChunk
from cluster.engine.port import Engine
from cluster.errors import BraidError, EngineError
from deployments.link.link_messages import Reroute
from deployments.replica.live_requests import LiveRequests
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_request import Coming, LaterSpan, ReplicaRequest
from deployments.replica.request_counters import RerouteCounters
from deployments.replica.request_decisions import RequestDecisions
from deployments.replica.request_leases import RequestLeases
from deployments.replica.request_notes import ids_of
from deployments.replica.request_spans import completion_span

log = structlog.get_logger(__name__)


class ReplicaRerouting:
    """The re-routes of one replica's requests, on its event loop.

    Args:
        live: the requests that have not ended.
        deliver: hands chunks to the links.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterManager,
        mixing: DecisionMixing,
        decisions: RequestDecisions,
        leases: RequestLeases,
        counters: RerouteCounters,
        live: LiveRequests,
        deliver: Callable[[list[GenerationChunk]], None],
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._mixing = mixing
        self._decisions = decisions
        self._leases = leases
        self._live = live
        self._deliver = deliver
        self.counters = counters

    def begin(self, request: ReplicaRequest, message: Reroute) -> None:
        """Begin a re-route; it ends with its first token, with a refusal, or with the request."""
        if request.coming is not None:
            self._report_refusal(request, "another re-route of the request is on its way")
            return
        request.coming = Coming(message)
        self._start(request, request.coming)

    def resume(self, request: ReplicaRequest) -> None:
        """Continue the re-route of a request that has entered the engine, perhaps again."""
        coming = request.coming
        if coming is not None and coming.task is not None and coming.task.done():
            self._start(request, coming)

    def span_begun(self, request: ReplicaRequest, start: int) -> None:
        """Make the new lease the request's own: its first token with it is computed.

        ``start`` tokens of the completion come before that one.
        """
        coming = request.coming
        assert coming is not None
        assert coming.decision is not None
        request.coming = None
        if request.lease is not None:
            request.earlier.append(request.lease)
        request.lease = coming.lease
        request.later.append(LaterSpan(start, coming.decision))
        self.counters.reroutes_applied += 1

    def release_earlier(self, request: ReplicaRequest) -> None:
        """End the leases of earlier spans, unless the engine still needs them."""
        if request.earlier and self._engine.release_before(request.id, request.later[-1].start):
            earlier, request.earlier = request.earlier, []
            for lease in earlier:
                self._leases.release(lease)

    @staticmethod
    def stop(request: ReplicaRequest) -> None:
        """Cancel the re-route of a request that ends."""
        if request.coming is not None and request.coming.task is not None:
            request.coming.task.cancel()

    def _start(self, request: ReplicaRequest, coming: Coming) -> None:
        coming.task = asyncio.create_task(self._reroute(request, coming))

    async def _reroute(self, request: ReplicaRequest, coming: Coming) -> None:
        """Lease the adapters, then tell the engine.

        After each wait the request may have ended, or have left the engine: then nothing stays
        leased while it waits for its other adapters.
        """
        try:
            decision = await self._decisions.read(request.tenant, coming.message.signed_decision)
            if not self._live.has(request):
                return
            coming.decision = decision
            lease = await self._leases.acquire(request, decision.digests)
            if lease is None:
                return
            if not (self._live.has(request) and request.in_engine):
                self._leases.release(lease)
                return
            coming.lease = lease
            self._reroute_in_engine(request, coming, decision, lease)
        except BraidError as error:
            self._refuse(request, coming, error.message)
        except Exception as error:
            log.error("replica.reroute_failed", **ids_of(request), exc_info=error)
            self._refuse(request, coming, "the replica could not re-route it")

    def _reroute_in_engine(
        self, request: ReplicaRequest, coming: Coming, decision: RoutingDecision, lease: Lease
    ) -> None:
        prompt = request.prompt
        span, mixing = completion_span(
            self._mixing, self._adapters, decision, lease, prompt, len(prompt)
        )
        if mixing is not None:
            raise EngineError(f"router {decision.router!r} weighs adapters within the model")
        # False if it has just ended or left the engine; a chunk or a return will follow.
        self._engine.reroute(
            request.id,
            span.namespace,
            span.adapters,
            after=coming.message.after,
        )

    def _refuse(self, request: ReplicaRequest, coming: Coming, reason: str) -> None:
        if coming.lease is not None:
            self._leases.release(coming.lease)
            coming.lease = None
        if self._live.has(request) and request.coming is coming:
            request.coming = None
            self._report_refusal(request, reason)

    def _report_refusal(self, request: ReplicaRequest, reason: str) -> None:
        self.counters.reroutes_refused += 1
        log.warning("replica.reroute_refused", **ids_of(request), reason=reason)
        self._deliver([GenerationChunk(request.id, reroute_error=reason)])
