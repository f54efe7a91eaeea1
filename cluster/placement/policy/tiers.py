"""Finds the tier of a tenant, and what it gives."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from cluster.placement.policy.schema import ClusterPolicy, TierPolicy


def tier_of(tenants: Mapping[str, str], tenant: str) -> str | None:
    """Return the tier of the first pattern that matches, or None without one.

    A name without wildcards is only compared: there may be thousands, and requests wait for this.
    """
    for pattern, tier in tenants.items():
        if pattern == tenant:
            return tier
        if ("*" in pattern or "?" in pattern or "[" in pattern) and fnmatchcase(tenant, pattern):
            return tier
    return None


def tier_weights(tiers: Mapping[str, TierPolicy]) -> dict[str, float]:
    """Return the weights of the tiers that name one, by tier."""
    return {name: tier.weight for name, tier in tiers.items() if tier.weight is not None}


def tier_weight(policy: ClusterPolicy, tenant: str) -> float | None:
    """Return the weight that a tenant's tier names, or None."""
    tier = policy.tiers.get(tier_of(policy.tenants, tenant) or "")
    return None if tier is None else tier.weight
