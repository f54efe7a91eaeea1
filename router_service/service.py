"""From a wish to a signed decision: explicit, stored, computed, or the fallback.

A request never fails because the store is away: its decision is then computed, or read from this
process's cache, and travels with the request.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import cast

import structlog

from cluster.clock import Clock
from cluster.config import DecisionConfig
from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import (
    CandidateScore,
    DecisionSource,
    Granularity,
    RoutingDecision,
    tagged_digest,
)
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId
from cluster.domain.model_names import AUTO
from cluster.errors import (
    DecisionNotFound,
    DecisionRejected,
    ModelNotFound,
    RouterOutdated,
    StoreUnavailable,
)
from router_service import explicit
from router_service.adapter_directory import AdapterDirectory
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import DecisionStore, SignedDecision
from router_service.decision_store.keys import decision_id, is_decision_id
from router_service.decision_store.layered import Found, LayeredStore, Origin, ReadOrder
from router_service.decision_store.local_cache import LocalCache
from router_service.routers.base import (
    WEIGHT_DECIMALS,
    PromptRouter,
    RoutedMixture,
    RouterFailed,
    SentenceRouter,
    Stage,
)
from router_service.routers.sentences import SentenceConfig
from router_service.single_flight import SingleFlight
from router_service.turns import digested_with, reroute_turns, route_turns, turns_read
from router_service.wish import RouterWish, RoutingWish

_FALLBACK = "fallback"
Choose = Callable[[frozenset[str]], RoutedMixture]
"""A router's answer, from the candidates that may be used."""

_log = structlog.get_logger(__name__)


class StoreState(StrEnum):
    """What the decision store did for one request."""

    HIT = "hit"  # it had the decision
    WRITTEN = "written"  # it did not; it has it now
    REPLACED = "replaced"  # its copy failed the checks; it has a fresh one now
    LOCAL = "local"  # unreachable; this process had the decision
    UNAVAILABLE = "unavailable"  # unreachable; only the request carries the decision
    SKIPPED = "skipped"  # a fallback is not kept


@dataclass(frozen=True, slots=True)
class Decided:
    """What the front goes on with."""

    decision: RoutingDecision  # ``source`` is this request's
    source: DecisionSource
    store_state: StoreState
    encoded: bytes  # the signed copy that travels with the request


@dataclass(slots=True)
class RoutingCounters:
    """How requests came by their decisions, since the service was made."""

    sources: Counter[DecisionSource] = field(default_factory=Counter)
    computations: Counter[str] = field(default_factory=Counter)  # router runs, by router name
    shared: int = 0  # requests that waited for the same prompt's decision instead of routing


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
        """``routers`` by name; the first one answers ``auto``.

        ``bound``: see ``use``.
        """
        self.counters = RoutingCounters()
        self.store = store
        self.use(routers, bound or {})
        self._layers = LayeredStore(
            store, LocalCache(clock, config.local_entries), ReadOrder.STORE_FIRST
        )
        self._directory = directory
        self._codec = codec
        self._clock = clock
        self._ttl_s = config.ttl_s
        self._max_mixture = max_mixture
        self._flights: SingleFlight[Decided] = SingleFlight()

    def use(
        self,
        routers: Mapping[str, PromptRouter],
        bound: Mapping[str, Mapping[str, str]],
        broken: Mapping[str, str] | None = None,
    ) -> None:
        """Decide by these routers from now on.

        ``bound``: by router, the version of each alias that it was made for, where it depends
        on it; that one is its candidate, whatever the alias points to now, as long as it is kept.
        ``broken``: by name, why a router cannot answer at present.
        """
        self._routers = routers
        self._bound = bound
        self._broken = broken or {}

    @property
    def router_names(self) -> tuple[str, ...]:
        """What may follow ``auto:``; the first one answers ``auto``."""
        return tuple(self._routers)

    async def decide(
        self,
        tenant: TenantId,
        wish: RoutingWish,
        text: str,
        prompt: Sequence[int] = (),
        earlier: Sequence[str] = (),
    ) -> Decided:
        """The decision for a prompt. ``text`` is read by routers only and never stored.

        So are ``earlier`` user turns, the oldest first, as many as the router declares to read.
        ``prompt`` are the tokens that will be prefilled, where they are known: a decision that
        prefill completes is for all of them, not for the text that routers read.

        Raises:
            ModelNotFound: an adapter or router that the tenant does not have.
            RequestError: an explicit mixture that cannot be.
        """
        if isinstance(wish, RouterWish):
            router = self._find_router(wish.router)
            whole = router.declares.granularity is Granularity.PROMPT
            digested = json.dumps([text, list(prompt)] if whole else ["text", text])
            read = turns_read(router, earlier)
            decided = await self._decide_routed(
                tenant,
                router,
                digested_with(digested, read),
                lambda allowed: route_turns(router, text, read, allowed),
            )
        else:
            decided = await self._decide_explicit(tenant, wish)
        self.counters.sources[decided.source] += 1
        return decided

    def sentences(self, wish: RoutingWish) -> SentenceConfig | None:
        """How an answer's sentences are told apart, where each is decided for; else None.

        Raises:
            ModelNotFound: there is no such router.
        """
        if not isinstance(wish, RouterWish):
            return None
        router = self._find_router(wish.router)
        if router.declares.stage is not Stage.SENTENCE:
            return None
        return cast(SentenceRouter, router).sentences

    async def decide_sentence(
        self,
        tenant: TenantId,
        wish: RouterWish,
        prompt: str,
        answer: str,
        earlier: Sequence[str] = (),
    ) -> Decided:
        """The decision for what follows ``answer``, which ends in the beginning of a sentence.

        It is kept like that of a prompt, under what the router reads. Texts are never stored.

        Raises:
            ModelNotFound: the router is gone, or decides for whole requests now.
        """
        found = self._find_router(wish.router)
        if found.declares.stage is not Stage.SENTENCE:
            raise ModelNotFound(
                f"router {found.name!r} does not decide by sentences", param="model"
            )
        router = cast(SentenceRouter, found)
        digested = json.dumps(["sentence", router.reading(prompt, answer)])
        read = turns_read(router, earlier)
        decided = await self._decide_routed(
            tenant,
            router,
            digested_with(digested, read),
            lambda allowed: reroute_turns(router, prompt, answer, read, allowed),
        )
        self.counters.sources[decided.source] += 1
        return decided

    async def keep_delay(self, decided: Decided, delay: int) -> None:
        """Note with a sentence's decision how many tokens late it was applied, best effort."""
        decision = decided.decision
        left = decision.expires_at - self._clock.wall()
        if decision.delay is not None or decided.source is DecisionSource.FALLBACK or left <= 0:
            return
        noted = replace(decision, source=DecisionSource.COMPUTED, delay=delay)
        with contextlib.suppress(StoreUnavailable):
            await self._layers.put(self._codec.sign(noted), left)

    async def get(self, tenant: TenantId, wanted: str) -> RoutingDecision:
        """A decision by its id, as it was taken.

        Raises:
            DecisionNotFound: none of the tenant's, or the stored one failed its checks.
            StoreUnavailable: the store did not answer and this process does not have it.
        """
        if not is_decision_id(wanted):
            raise DecisionNotFound(f"{wanted[:64]!r} is not a decision id", param="id")
        try:
            found = await self._layers.get(tenant, DecisionId(wanted))
        except DecisionRejected as error:
            raise DecisionNotFound(f"decision {wanted} is not valid: {error}") from error
        if found is None:
            raise DecisionNotFound(f"no decision {wanted} is kept", param="id")
        return found.signed.decision

    async def close(self) -> None:
        """Let decisions in flight end, then close the store."""
        await self._flights.wait_idle()
        await self.store.close()

    async def _decide_explicit(self, tenant: TenantId, wish: explicit.ExplicitWish) -> Decided:
        mixed = explicit.mix_explicit(wish, tenant, self._directory, self._max_mixture)
        # The prompt has no part in the decision: one decision per mixture, not one per prompt.
        signed = self._sign(
            tenant=tenant,
            router=explicit.NAME,
            version=explicit.VERSION,
            granularity=Granularity.REQUEST,
            mixture=mixed.mixture,
            source=DecisionSource.EXPLICIT,
            candidates_digest=explicit.mixture_digest(mixed.mixture),
            prompt_digest="",
            scores=tuple(CandidateScore(alias, 0.0, kept=False) for alias in mixed.dropped),
        )
        state = await self._keep(signed, StoreState.WRITTEN)
        return Decided(signed.decision, DecisionSource.EXPLICIT, state, signed.encoded)

    async def _decide_routed(
        self, tenant: TenantId, router: PromptRouter, digested: str, choose: Choose
    ) -> Decided:
        """``digested`` is all of the request that the answer of ``choose`` depends on."""
        keys, gone = self._allowed(tenant, router)
        candidates_digest = _candidates_digest(keys)
        prompt_digest = self._codec.prompt_digest(tenant, digested)
        wanted = decision_id(tenant, router.name, router.version, candidates_digest, prompt_digest)

        async def look_up_or_route() -> Decided:
            found, state = await self._look_up(tenant, wanted)
            if found is not None:
                return _stored(found, state)
            return await self._route(
                tenant, router, keys, choose, candidates_digest, prompt_digest, state, gone
            )

        decided, led = await self._flights.run((tenant, wanted), look_up_or_route)
        if led or decided.source is not DecisionSource.COMPUTED:
            return decided
        # The leader's run was counted as its own; this request found what the leader had kept.
        self.counters.shared += 1
        state = (
            StoreState.LOCAL if decided.store_state is StoreState.UNAVAILABLE else StoreState.HIT
        )
        return Decided(
            replace(decided.decision, source=DecisionSource.STORED),
            DecisionSource.STORED,
            state,
            decided.encoded,
        )

    async def _look_up(
        self, tenant: TenantId, wanted: DecisionId
    ) -> tuple[Found | None, StoreState]:
        """What is kept, or how the store will stand once a fresh decision has been written."""
        try:
            found = await self._layers.get(tenant, wanted)
        except DecisionRejected as error:
            _log.warning("decision_rejected", decision_id=wanted, reason=error.message)
            return None, StoreState.REPLACED
        except StoreUnavailable:
            return None, StoreState.UNAVAILABLE
        if found is None:
            return None, StoreState.WRITTEN
        return found, StoreState.LOCAL if found.origin is Origin.LOCAL else StoreState.HIT

    async def _route(
        self,
        tenant: TenantId,
        router: PromptRouter,
        keys: Mapping[str, AdapterKey | None],
        choose: Choose,
        candidates_digest: str,
        prompt_digest: str,
        state: StoreState,
        gone: Sequence[str],
    ) -> Decided:
        self.counters.computations[router.name] += 1
        try:
            routed = choose(frozenset(keys))
        except RouterFailed as error:
            if gone:
                raise RouterOutdated(
                    f"router {router.name!r} was made for versions that are no longer kept: "
                    f"{'; '.join(gone)}; make it anew for those that are served now",
                    param="model",
                ) from error
            _log.error("router_failed", router=router.name, reason=error.message)
            return self._fall_back(tenant, candidates_digest, prompt_digest)
        signed = self._sign(
            tenant=tenant,
            router=router.name,
            version=router.version,
            granularity=router.declares.granularity,
            mixture=_resolve(routed, keys),
            source=DecisionSource.COMPUTED,
            candidates_digest=candidates_digest,
            prompt_digest=prompt_digest,
            scores=routed.scores,
        )
        state = await self._keep(signed, state)
        return Decided(signed.decision, DecisionSource.COMPUTED, state, signed.encoded)

    def _fall_back(self, tenant: TenantId, candidates_digest: str, prompt_digest: str) -> Decided:
        """The base alone, under an id of its own so that no cache takes it for the router's."""
        signed = self._sign(
            tenant=tenant,
            router=_FALLBACK,
            version="1",
            granularity=Granularity.REQUEST,
            mixture=(),
            source=DecisionSource.FALLBACK,
            candidates_digest=candidates_digest,
            prompt_digest=prompt_digest,
            scores=(),
        )
        return Decided(signed.decision, DecisionSource.FALLBACK, StoreState.SKIPPED, signed.encoded)

    def _sign(
        self,
        *,
        tenant: TenantId,
        router: str,
        version: str,
        granularity: Granularity,
        mixture: tuple[WeightedAdapter, ...],
        source: DecisionSource,
        candidates_digest: str,
        prompt_digest: str,
        scores: tuple[CandidateScore, ...],
    ) -> SignedDecision:
        now = self._clock.wall()
        return self._codec.sign(
            RoutingDecision(
                id=decision_id(tenant, router, version, candidates_digest, prompt_digest),
                tenant=tenant,
                router=router,
                router_version=version,
                granularity=granularity,
                mixture=mixture,
                source=source,
                candidates_digest=candidates_digest,
                prompt_digest=prompt_digest,
                created_at=now,
                expires_at=now + self._ttl_s,
                scores=scores,
            )
        )

    async def _keep(self, signed: SignedDecision, state: StoreState) -> StoreState:
        """Put, best effort; ``state`` if it worked."""
        try:
            await self._layers.put(signed, self._ttl_s)
        except StoreUnavailable:
            return StoreState.UNAVAILABLE
        return StoreState.WRITTEN if state is StoreState.UNAVAILABLE else state

    def _find_router(self, name: str | None) -> PromptRouter:
        if name is None and self._routers:
            return next(iter(self._routers.values()))
        router = self._routers.get(name) if name is not None else None
        if router is None:
            if name is not None and name in self._broken:
                raise RouterOutdated(f"router {name!r}: {self._broken[name]}", param="model")
            known = ", ".join(self._routers) or "none"
            raise ModelNotFound(
                f"no router {AUTO if name is None else name!r}; there are: {known}",
                param="model",
            )
        return router

    def _allowed(
        self, tenant: TenantId, router: PromptRouter
    ) -> tuple[dict[str, AdapterKey | None], list[str]]:
        """The candidates that the tenant may use, in the router's order, and in words which of
        them are left out because the version that the router depends on is not kept any more.

        The base has no key. What was removed is left out.
        """
        visible = dict(self._directory.visible(tenant))
        gone = []
        for alias, digest in self._bound.get(router.name, {}).items():
            if alias in visible and visible[alias].digest != digest:
                kept = self._directory.earlier(tenant, alias, AdapterDigest(digest))
                if kept is None:
                    now = visible.pop(alias).digest
                    gone.append(f"{alias!r} was {digest[:12]} and is {now[:12]}")
                else:
                    visible[alias] = kept
        keys = {
            alias: None if alias == BASE_ALIAS else visible[alias]
            for alias in router.candidates
            if alias == BASE_ALIAS or alias in visible
        }
        return keys, gone


def _candidates_digest(keys: Mapping[str, AdapterKey | None]) -> str:
    parts = []
    for alias, key in keys.items():
        parts.append(("alias", alias.encode()))
        parts.append(("adapter", b"" if key is None else key.digest.encode()))
    return tagged_digest(*parts)


def _resolve(
    routed: RoutedMixture, keys: Mapping[str, AdapterKey | None]
) -> tuple[WeightedAdapter, ...]:
    """Aliases to versions, sorted by digest; aliases of one version are added up."""
    terms: dict[AdapterDigest, WeightedAdapter] = {}
    for alias, weight in routed.weights:
        key = keys[alias]
        if key is None:
            continue
        before = terms.get(key.digest)
        total = weight if before is None else round(before.weight + weight, WEIGHT_DECIMALS)
        terms[key.digest] = WeightedAdapter(key, total)
    return tuple(terms[digest] for digest in sorted(terms) if terms[digest].weight != 0)


def _stored(found: Found, state: StoreState) -> Decided:
    return Decided(
        replace(found.signed.decision, source=DecisionSource.STORED),
        DecisionSource.STORED,
        state,
        found.signed.encoded,
    )
