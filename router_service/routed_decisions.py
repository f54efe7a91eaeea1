"""Decides requests for a router: stored, computed, or the fallback.

A request never fails because the store is down: its decision is then computed, or read from this
process's cache, and travels with the request.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import DecisionSource, Granularity
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId
from cluster.errors import DecisionRejected, RouterOutdated, StoreUnavailable
from router_service.decision_signer import DecisionSigner
from router_service.decision_store.decision_store import Origin, StoredDecision
from router_service.decision_store.keys import decision_id
from router_service.decision_store.layered import LayeredStore
from router_service.request_decision import RequestDecision, StoreState
from router_service.router_table import Candidates
from router_service.routers.base import (
    WEIGHT_DECIMALS,
    PromptRouter,
    RoutedMixture,
    RouterFailed,
)
from router_service.single_flight import SingleFlight
from router_service.store_health import StoreHealth

_FALLBACK = "fallback"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RoutingCounters:
    """Counts how requests came by their decisions, since the service was made."""

    sources: Counter[DecisionSource] = field(default_factory=Counter)
    computations: Counter[str] = field(default_factory=Counter)  # router runs, by router name
    shared: int = 0  # requests that waited for the same prompt's decision instead of routing


@dataclass(frozen=True, slots=True)
class Question:
    """Asks one router about one prompt.

    Args:
        tenant: who asks.
        router: decides.
        candidates: what it may choose from.
        prompt_digest: keyed digest of all of the request that the answer depends on.
        choose: runs the router, given the aliases that may be used.
    """

    tenant: TenantId
    router: PromptRouter
    candidates: Candidates
    prompt_digest: str
    choose: Callable[[frozenset[str]], RoutedMixture]

    @property
    def decision_id(self) -> DecisionId:
        """Return the id of the decision that answers it."""
        return decision_id(
            self.tenant,
            self.router.name,
            self.router.version,
            self.candidates.digest,
            self.prompt_digest,
        )


class RoutedDecisions:
    """Looks decisions up, runs routers and stores what they answer, on one event loop."""

    def __init__(
        self,
        layers: LayeredStore,
        signer: DecisionSigner,
        counters: RoutingCounters,
        health: StoreHealth,
    ) -> None:
        self._layers = layers
        self._signer = signer
        self._counters = counters
        self._health = health
        self._flights: SingleFlight[RequestDecision] = SingleFlight()

    async def decide(self, question: Question) -> RequestDecision:
        """Return the stored decision, or a new one; concurrent equal questions share one run.

        Raises:
            RouterOutdated: the router was made for versions that are no longer kept.
        """
        wanted = question.decision_id

        async def look_up_or_route() -> RequestDecision:
            stored, state = await self._look_up(question.tenant, wanted)
            if stored is not None:
                return RequestDecision.found(stored, state)
            return await self._route(question, state)

        decided, led = await self._flights.run((question.tenant, wanted), look_up_or_route)
        if led or decided.source is not DecisionSource.COMPUTED:
            return decided
        # The leader's run was counted as its own; this request found what the leader had kept.
        self._counters.shared += 1
        away = decided.store_state is StoreState.UNAVAILABLE
        stored = StoredDecision(decided.decision, decided.encoded)
        return RequestDecision.found(stored, StoreState.LOCAL if away else StoreState.HIT)

    async def close(self) -> None:
        """Wait for the decisions under way."""
        await self._flights.wait_idle()

    async def _look_up(
        self, tenant: TenantId, wanted: DecisionId
    ) -> tuple[StoredDecision | None, StoreState]:
        """Return what is kept, or None and the store's state once a new one has been written."""
        try:
            found = await self._layers.get(tenant, wanted)
        except DecisionRejected as error:
            _log.warning("decision_rejected", decision_id=wanted, reason=error.message)
            return None, StoreState.REPLACED
        except StoreUnavailable:
            self._health.failed()
            return None, StoreState.UNAVAILABLE
        if found is not None and found.origin is Origin.LOCAL:
            self._health.failed()
            return found, StoreState.LOCAL
        self._health.answered()
        return found, StoreState.WRITTEN if found is None else StoreState.HIT

    async def _route(self, question: Question, state: StoreState) -> RequestDecision:
        router, candidates = question.router, question.candidates
        self._counters.computations[router.name] += 1
        try:
            routed = question.choose(frozenset(candidates.keys))
        except RouterFailed as error:
            if candidates.gone:
                raise RouterOutdated(
                    f"router {router.name!r} was made for versions that are no longer kept: "
                    f"{'; '.join(candidates.gone)}; make it again for those that are served now",
                    param="model",
                ) from error
            _log.error("router_failed", router=router.name, reason=error.message)
            return self._fall_back(question)
        stored = self._signer.sign(
            tenant=question.tenant,
            router=router.name,
            version=router.version,
            granularity=router.declares.granularity,
            mixture=_resolve(routed, candidates.keys),
            source=DecisionSource.COMPUTED,
            candidates_digest=candidates.digest,
            prompt_digest=question.prompt_digest,
            scores=routed.scores,
        )
        return RequestDecision.fresh(stored, await self._keep(stored, state))

    def _fall_back(self, question: Question) -> RequestDecision:
        """Decide for the base alone, under an id that no cache takes for the router's."""
        stored = self._signer.sign(
            tenant=question.tenant,
            router=_FALLBACK,
            version="1",
            granularity=Granularity.REQUEST,
            mixture=(),
            source=DecisionSource.FALLBACK,
            candidates_digest=question.candidates.digest,
            prompt_digest=question.prompt_digest,
            scores=(),
        )
        return RequestDecision.fresh(stored, StoreState.SKIPPED)

    async def _keep(self, stored: StoredDecision, state: StoreState) -> StoreState:
        """Write a decision; returns ``state``, or UNAVAILABLE if the store did not take it."""
        try:
            await self._layers.put(stored, self._signer.ttl_s)
        except StoreUnavailable:
            self._health.failed()
            return StoreState.UNAVAILABLE
        self._health.answered()
        return StoreState.WRITTEN if state is StoreState.UNAVAILABLE else state


def _resolve(
    routed: RoutedMixture, keys: Mapping[str, AdapterKey | None]
) -> tuple[WeightedAdapter, ...]:
    """Turn aliases into versions, sorted by digest; weights of one version are added up."""
    terms: dict[AdapterDigest, WeightedAdapter] = {}
    for alias, weight in routed.weights:
        key = keys[alias]
        if key is None:
            continue
        before = terms.get(key.digest)
        total = weight if before is None else round(before.weight + weight, WEIGHT_DECIMALS)
        terms[key.digest] = WeightedAdapter(key, total)
    return tuple(terms[digest] for digest in sorted(terms) if terms[digest].weight != 0)
