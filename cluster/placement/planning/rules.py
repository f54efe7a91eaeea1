"""The planner's constants, and what it takes from the operator's policy."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from cluster.domain.ids import TenantId
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.tiers import LeastCopies, least_copies, tier_weight
from cluster.tenancy.shares import DEFAULT_WEIGHT, weight_of

IDLE_RATE = 0.001
"""Requests per second below which a set counts as unused: fewer than four in an hour."""
DENSER = 1.25
"""Times by which a set must be denser than what makes room for it."""
PAYS = 1.5
"""Times its own seconds that a load must save within the payback time."""
URGENT = 4
"""Times the churn that promises may move."""


@dataclass(frozen=True, slots=True)
class PlanningRules:
    """All that a plan takes from the policy and does not depend on the cluster."""

    target: float = 0.7  # share of a replica's time that work may take
    least: int = 1  # copies of a set with demand; the first one comes with demand
    most: int | None = None  # copies of a set; pins may go above it
    churn: float = 0.1  # share of all pools' bytes that a minute may move
    payback_s: float = 300.0  # within which a move must have saved more seconds than it costs
    spare: float = 0.1  # share of a pool where only promises are placed
    bound: float = 1.25  # times the mean work above which a replica's work is evened out
    weights: Mapping[TenantId, float] = field(default_factory=dict)  # of those with demand
    promised: Mapping[TenantId, LeastCopies] = field(default_factory=dict)
    """Copies of each set that a tenant with demand asks for, if any tier names a number."""

    def weight_of(self, tenant: TenantId) -> float:
        """Return the weight of a tenant."""
        return self.weights.get(tenant, DEFAULT_WEIGHT)

    def promised_to(self, tenant: TenantId) -> LeastCopies:
        """Return the copies that a tenant is promised of each set that it asks for."""
        return self.promised.get(tenant) or _to_all(self.least)

    def ask_the_same(self, earlier: "PlanningRules") -> bool:
        """Report whether two rules are alike for all tenants that both know."""
        both = self.weights.keys() & earlier.weights.keys()
        alike = replace(self, weights=earlier.weights, promised=earlier.promised) == earlier
        return alike and all(
            self.weights[tenant] == earlier.weights[tenant]
            and self.promised.get(tenant) == earlier.promised.get(tenant)
            for tenant in both
        )


@cache
def _to_all(copies: int) -> LeastCopies:
    """Return one object for all sets: thousands of equal ones keep the garbage collector busy."""
    return LeastCopies(copies)


def rules_of(
    policy: ClusterPolicy, own_weights: Mapping[TenantId, float], tenants: Collection[TenantId]
) -> PlanningRules:
    """Return the rules that a policy makes.

    Args:
        own_weights: of the tenants file, where it names one.
        tenants: those with demand.
    """
    placement = policy.placement
    promise = any(tier.min_copies is not None for tier in policy.tiers.values())
    return PlanningRules(
        target=policy.replicas.target,
        least=placement.min_copies,
        most=placement.max_copies,
        churn=placement.churn,
        payback_s=placement.payback,
        bound=policy.picking.bound,
        weights={
            tenant: weight_of(own_weights.get(tenant), tier_weight(policy, tenant))
            for tenant in tenants
        },
        promised={tenant: least_copies(policy, tenant) for tenant in tenants if promise},
    )
