"""Turns routing requests into signed decisions."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from cluster.clock import Clock
from cluster.config import DecisionConfig
from cluster.domain.decision import DecisionSource, Granularity, RoutingDecision
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import (
    DecisionNotFound,
    DecisionRejected,
    ModelNotFound,
    StoreUnavailable,
)
from router_service.adapter_directory import AdapterDirectory
from router_service.decision_signer import DecisionSigner
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import DecisionStore
from router_service.decision_store.keys import is_decision_id
from router_service.decision_store.layered import LayeredStore, ReadOrder
from router_service.decision_store.local_cache import LocalCache
from router_service.explicit_decisions import ExplicitDecisions
from router_service.request_decision import RequestDecision
from router_service.routed_decisions import Question, RoutedDecisions, RoutingCounters
from router_service.router_table import RouterTable
from router_service.routers.base import PromptRouter, SentenceRouter, Stage
from router_service.routers.sentences import SentenceConfig
from router_service.routing_request import RouterRequest, RoutingRequest
from router_service.store_health import StoreHealth
from router_service.turns import digested_with, reroute_turns, route_turns, turns_read


class RoutingService:
    """Decides for the front. One per process and event loop."""

    def __init__(
        self,
        *,
        routers: Mapping[str, PromptRouter],
        store: DecisionStore,
        directory: AdapterDirectory,
        codec: DecisionCodec,
        clock: Clock,
        config: DecisionConfig,
        max_mixture: int,
        bound: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """``routers`` and ``bound`` are those of ``RouterTable``."""
        self.counters = RoutingCounters()
        self.store = store
        self.use(routers, bound or {})
        self._directory = directory
        self._signer = DecisionSigner(codec, clock, config.ttl_s)
        self._layers = LayeredStore(
            store, LocalCache(clock, config.local_entries), ReadOrder.STORE_FIRST
        )
        health = StoreHealth()
        self._routed = RoutedDecisions(self._layers, self._signer, self.counters, health)
        self._explicit = ExplicitDecisions(
            self._layers, self._signer, directory, max_mixture, health
        )

    def use(
        self,
        routers: Mapping[str, PromptRouter],
        bound: Mapping[str, Mapping[str, str]],
        broken: Mapping[str, str] | None = None,
    ) -> None:
        """Decide by these routers from now on; the arguments are those of ``RouterTable``."""
        self._table = RouterTable(routers, bound, broken or {})

    @property
    def router_names(self) -> tuple[str, ...]:
        """Return what may follow ``auto:``; the first one answers ``auto``."""
        return tuple(self._table.routers)

    async def decide(
        self,
        tenant: TenantId,
        request: RoutingRequest,
        text: str,
        prompt: Sequence[int] = (),
        earlier: Sequence[str] = (),
    ) -> RequestDecision:
        """Decide for a prompt.

        Args:
            tenant: who asks.
            request: what is asked for.
            text: the prompt as routers read it; never stored.
            prompt: the tokens to be prefilled, if known. A decision that prefill completes is for
                all of them, not for the text that routers read.
            earlier: user turns before, the oldest first; a router reads as many as it declares.

        Raises:
            ModelNotFound: an adapter or router that the tenant does not have.
            RequestError: an explicit mixture that is not possible.
        """
        if isinstance(request, RouterRequest):
            router = self._table.find(request.router)
            whole = router.declares.granularity is Granularity.PROMPT
            digested = json.dumps([text, list(prompt)] if whole else ["text", text])
            read = turns_read(router, earlier)
            decided = await self._routed.decide(
                Question(
                    tenant,
                    router,
                    self._table.candidates(router, tenant, self._directory),
                    self._signer.prompt_digest(tenant, digested_with(digested, read)),
                    lambda allowed: route_turns(router, text, read, allowed),
                )
            )
        else:
            decided = self._explicit.decide(tenant, request)
        self.counters.sources[decided.source] += 1
        return decided

    def sentences(self, request: RoutingRequest) -> SentenceConfig | None:
        """Return how an answer is cut into sentences, or None if it is decided once.

        Raises:
            ModelNotFound: there is no such router.
        """
        if not isinstance(request, RouterRequest):
            return None
        router = self._table.find(request.router)
        if router.declares.stage is not Stage.SENTENCE:
            return None
        return cast(SentenceRouter, router).sentences

    async def decide_sentence(
        self,
        tenant: TenantId,
        request: RouterRequest,
        prompt: str,
        answer: str,
        earlier: Sequence[str] = (),
    ) -> RequestDecision:
        """Decide for what follows ``answer``, which ends in the beginning of a sentence.

        The decision is kept like a prompt's, under what the router reads. Texts are never stored.

        Raises:
            ModelNotFound: the router is gone, or decides for whole requests now.
        """
        found = self._table.find(request.router)
        if found.declares.stage is not Stage.SENTENCE:
            raise ModelNotFound(
                f"router {found.name!r} does not decide by sentences", param="model"
            )
        router = cast(SentenceRouter, found)
        digested = json.dumps(["sentence", router.reading(prompt, answer)])
        read = turns_read(router, earlier)
        decided = await self._routed.decide(
            Question(
                tenant,
                router,
                self._table.candidates(router, tenant, self._directory),
                self._signer.prompt_digest(tenant, digested_with(digested, read)),
                lambda allowed: reroute_turns(router, prompt, answer, read, allowed),
            )
        )
        self.counters.sources[decided.source] += 1
        return decided

    async def keep_delay(self, decided: RequestDecision, delay: int) -> None:
        """Try to record how many tokens late a sentence's decision took effect."""
        decision = decided.decision
        left = self._signer.seconds_left(decision)
        if decision.delay is not None or decided.source is DecisionSource.FALLBACK or left <= 0:
            return
        noted = replace(decision, source=DecisionSource.COMPUTED, delay=delay)
        with contextlib.suppress(StoreUnavailable):
            await self._layers.put(self._signer.sign_again(noted), left)

    async def get(self, tenant: TenantId, wanted: str) -> RoutingDecision:
        """Return a decision by its id, as it was taken.

        Raises:
            DecisionNotFound: the tenant has none of this id, or the stored one failed its checks.
            StoreUnavailable: the store did not answer and this process does not have it.
        """
        if not is_decision_id(wanted):
            raise DecisionNotFound(f"{wanted[:64]!r} is not a decision id", param="id")
        name = DecisionId(wanted)
        await self._explicit.wait_written(tenant, name)
        try:
            found = await self._layers.get(tenant, name)
        except DecisionRejected as error:
            raise DecisionNotFound(f"decision {wanted} is not valid: {error}") from error
        found = found or self._explicit.lost_by_store(tenant, name)
        if found is None:
            raise DecisionNotFound(f"no decision {wanted} is kept", param="id")
        return found.decision

    async def close(self) -> None:
        """Wait for decisions and writes under way, then close the store."""
        await self._routed.close()
        await self._explicit.close()
        await self.store.close()
