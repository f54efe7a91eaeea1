"""Decisions for tests that need one but do not ask how it came to be."""

from dataclasses import replace
from typing import Any

from cluster.domain.adapter import SHARED_OWNER, AdapterKey, WeightedAdapter
from cluster.domain.decision import DecisionSource, Granularity, RoutingDecision
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId

TENANT = TenantId("t")


def mixture(adapters: str, owner: TenantId = SHARED_OWNER) -> tuple[WeightedAdapter, ...]:
    """Return one adapter of weight 1 for each letter, which is its name and digest."""
    return tuple(
        WeightedAdapter(AdapterKey(owner, name, AdapterDigest(name)), 1.0) for name in adapters
    )


def decision_over(adapters: str = "", **changes: Any) -> RoutingDecision:
    """Return an explicit decision that never expires; ``changes`` are fields of it."""
    decision = RoutingDecision(
        id=DecisionId("dec_0"),
        tenant=TENANT,
        router="explicit",
        router_version="1",
        granularity=Granularity.REQUEST,
        mixture=mixture(adapters),
        source=DecisionSource.EXPLICIT,
        candidates_digest="",
        prompt_digest="",
        created_at=0.0,
        expires_at=1e12,
    )
    return replace(decision, **changes)
