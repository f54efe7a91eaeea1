"""Decides requests that name their adapters, without waiting for the store.

The decision follows from the mixture alone, so each process signs one per mixture and reuses it
until half of its lifetime is over. The store receives it once, in the background, so that it can be
looked up by its id; a failed write is repeated with the next request for the same mixture.
"""

import asyncio
from dataclasses import replace

import structlog

from cluster.domain.decision import CandidateScore, DecisionSource, Granularity
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import StoreUnavailable
from router_service import explicit
from router_service.adapter_directory import AdapterDirectory
from router_service.decision_signer import DecisionSigner
from router_service.decision_store.decision_store import Origin, StoredDecision
from router_service.decision_store.keys import decision_id
from router_service.decision_store.layered import LayeredStore
from router_service.request_decision import RequestDecision, StoreState
from router_service.store_health import StoreHealth

_log = structlog.get_logger(__name__)

REUSED_FOR = 0.5
"""Share of its lifetime during which a decision is reused."""

_Key = tuple[TenantId, DecisionId]


class ExplicitDecisions:
    """Makes, reuses and stores explicit decisions on one event loop.

    Args:
        layers: the cache, and the store that is written in the background.
        signer: makes the decisions.
        directory: resolves aliases.
        max_mixture: most adapters in one mixture.
        health: what this process knows of the store.
    """

    def __init__(
        self,
        layers: LayeredStore,
        signer: DecisionSigner,
        directory: AdapterDirectory,
        max_mixture: int,
        health: StoreHealth,
    ) -> None:
        self._layers = layers
        self._signer = signer
        self._directory = directory
        self._max_mixture = max_mixture
        self._health = health
        self._writes: dict[_Key, asyncio.Task[None]] = {}

    def decide(self, tenant: TenantId, request: explicit.ExplicitRequest) -> RequestDecision:
        """Return the decision for the named adapters; awaits nothing.

        The store state is UNAVAILABLE if the decision is not stored yet and the store did not
        answer when it was last asked.

        Raises:
            ModelNotFound: an alias is unknown or not the tenant's.
            RequestError: the mixture is not possible.
        """
        mixed = explicit.mix_explicit(request, tenant, self._directory, self._max_mixture)
        stored = self._reusable(tenant, mixed) or self._sign(tenant, mixed)
        state = StoreState.WRITTEN
        if stored.origin is Origin.SIGNED:
            self._write(stored)
            if self._health.is_away:
                state = StoreState.UNAVAILABLE
        return RequestDecision.fresh(stored, state)

    async def wait_written(self, tenant: TenantId, wanted: DecisionId) -> None:
        """Wait for the write of a decision, if one is under way."""
        task = self._writes.get((tenant, wanted))
        if task is not None:
            await asyncio.shield(task)

    def lost_by_store(self, tenant: TenantId, wanted: DecisionId) -> StoredDecision | None:
        """Return an explicit decision that the store no longer has, and write it again."""
        cached = self._layers.cache.get(tenant, wanted)
        if cached is None or cached.decision.source is not DecisionSource.EXPLICIT:
            return None
        self._write(cached)
        return replace(cached, origin=Origin.LOCAL)

    async def close(self) -> None:
        """Wait for the writes under way."""
        while self._writes:
            await asyncio.wait(list(self._writes.values()))

    def _reusable(self, tenant: TenantId, mixed: explicit.ExplicitMixture) -> StoredDecision | None:
        """Return the cached decision, unless it is old or was made under other names."""
        cached = self._layers.cache.get(tenant, _id_of(tenant, mixed))
        if cached is None:
            return None
        decision = cached.decision
        # Its id says digests and weights, not the aliases that they were asked for by.
        same = decision.mixture == mixed.mixture and decision.scores == _scores(mixed)
        young = self._signer.seconds_left(decision) > (1 - REUSED_FOR) * self._signer.ttl_s
        return cached if same and young else None

    def _sign(self, tenant: TenantId, mixed: explicit.ExplicitMixture) -> StoredDecision:
        stored = self._signer.sign(
            tenant=tenant,
            router=explicit.NAME,
            version=explicit.VERSION,
            granularity=Granularity.REQUEST,
            mixture=mixed.mixture,
            source=DecisionSource.EXPLICIT,
            candidates_digest=explicit.mixture_digest(mixed.mixture),
            prompt_digest="",
            scores=_scores(mixed),
        )
        self._layers.cache.put(stored)
        return stored

    def _write(self, stored: StoredDecision) -> None:
        """Write to the store in the background, one write per decision at a time."""
        key = (stored.decision.tenant, stored.decision.id)
        if key not in self._writes:
            task = asyncio.create_task(self._put(stored))
            self._writes[key] = task
            task.add_done_callback(lambda _: self._writes.pop(key, None))

    async def _put(self, stored: StoredDecision) -> None:
        left = self._signer.seconds_left(stored.decision)
        if left <= 0:
            return
        try:
            await self._layers.store.put(stored, left)
        except StoreUnavailable:
            self._health.failed()
            return
        except Exception as error:  # no request depends on this write
            _log.error("decision_not_written", decision=stored.decision.id, exc_info=error)
            return
        self._health.answered()
        cache = self._layers.cache
        newest = cache.get(stored.decision.tenant, stored.decision.id)
        if newest is not None and newest.encoded == stored.encoded:
            cache.put(replace(stored, origin=Origin.STORE))


def _id_of(tenant: TenantId, mixed: explicit.ExplicitMixture) -> DecisionId:
    digest = explicit.mixture_digest(mixed.mixture)
    return decision_id(tenant, explicit.NAME, explicit.VERSION, digest, "")


def _scores(mixed: explicit.ExplicitMixture) -> tuple[CandidateScore, ...]:
    return tuple(CandidateScore(alias, 0.0, kept=False) for alias in mixed.dropped)
