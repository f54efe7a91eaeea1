"""Decides which adapters answer a prompt and its later sentences, counted and timed."""

from collections.abc import Awaitable, Callable

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.errors import ModelNotFound
from cluster.tasks import Tasks
from deployments.front.sequences.rerouting import SentenceRerouting
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.telemetry.request_log import current_record
from deployments.front.text.prompt_types import Prompts
from router_service.request_decision import RequestDecision
from router_service.routing_request import RouterRequest, RoutingRequest
from router_service.service import RoutingService


class Decider:
    """Asks the routing service for the requests of one front.

    Args:
        routing: decides.
        sync_names: syncs this front with the registry, unless it was since the given time
            (monotonic, seconds).
    """

    def __init__(
        self,
        routing: RoutingService,
        sync_names: Callable[[float], Awaitable[None]],
        metrics: FrontMetrics,
        clock: Clock,
    ) -> None:
        self._routing = routing
        self._sync_names = sync_names
        self._metrics = metrics
        self._clock = clock
        self.keeping = Tasks()  # delays on their way to the store

    async def decide(
        self, tenant: TenantId, request: RoutingRequest, prompts: Prompts
    ) -> RequestDecision:
        """Decide for the last of the user's turns, or for the first prompt's tokens.

        Raises:
            ModelNotFound: an adapter or router that the tenant does not have.
            RequestError: an explicit mixture that is not possible.
        """
        started = self._clock.monotonic()
        *earlier, text = prompts.turns
        tokens = prompts.ids[0]
        try:
            decided = await self._routing.decide(tenant, request, text, tokens, earlier)
        except ModelNotFound:
            # Another front may have added it a moment ago.
            await self._sync_names(started)
            decided = await self._routing.decide(tenant, request, text, tokens, earlier)
        self._count(tenant, decided, started)
        current_record().decided(decided, self._clock.monotonic() - started)
        return decided

    def rerouting_of(
        self,
        tenant: TenantId,
        request: RoutingRequest,
        prompts: Prompts,
        decided: RequestDecision,
    ) -> SentenceRerouting | None:
        """Return what decides an answer's later sentences, or None if it is decided once.

        Raises:
            ModelNotFound: the router is gone.
        """
        sentences = self._routing.sentences(request)
        if sentences is None or not isinstance(request, RouterRequest):
            return None
        router = request  # of this type in the function, too
        *earlier, text = prompts.turns

        async def decide_sentence(answer: str) -> RequestDecision:
            started = self._clock.monotonic()
            found = await self._routing.decide_sentence(tenant, router, text, answer, earlier)
            self._count(tenant, found, started)
            return found

        return SentenceRerouting(decided, sentences, decide_sentence, self._keep_delay)

    def _keep_delay(self, decided: RequestDecision, delay: int) -> None:
        self.keeping.start(self._routing.keep_delay(decided, delay))

    def _count(self, tenant: TenantId, decided: RequestDecision, started: float) -> None:
        source = decided.source.value
        self._metrics.route_seconds.labels(source).observe(self._clock.monotonic() - started)
        self._metrics.decisions.labels(tenant, source).inc()
