"""Finds the tier of a tenant, and what it gives."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from cluster.placement.policy.schema import ClusterPolicy, TierPolicy


class LeastCopies(NamedTuple):
    """A number of copies that is promised."""

    copies: int
    path: str = "placement.min_copies"
    """The field of the policy that says so."""


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


def least_copies(policy: ClusterPolicy, tenant: str) -> LeastCopies:
    """Return the copies that a tenant is promised of each set that it asks for."""
    name = tier_of(policy.tenants, tenant) or ""
    tier = policy.tiers.get(name)
    if tier is None or tier.min_copies is None:
        return LeastCopies(policy.placement.min_copies)
    return LeastCopies(tier.min_copies, f"tiers.{name}.min_copies")


def replicas_promised(policy: ClusterPolicy, tenants: Iterable[str]) -> int:
    """Return the replicas that promised copies need, whatever is asked for at the moment.

    Args:
        tenants: those of the tenants file; the ones that the policy names by name are added.
    """
    if policy.placement.min_copies == 1 and not any(t.min_copies for t in policy.tiers.values()):
        return 1
    named = [name for name in policy.tenants if set(name).isdisjoint("*?[")]
    return max((least_copies(policy, each).copies for each in {*tenants, *named}), default=1)
