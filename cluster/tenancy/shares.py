"""Defines what a tenant is owed when there is not enough for all: one definition for all parts.

Tenants' weights say in which proportion scarce things are divided: computed tokens and rows of a
full batch, places of those who wait, slots and host memory for adapters. Only those count that ask
at the moment, so an idle tenant's part is open to the others.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from cluster.domain.ids import TenantId

DEFAULT_WEIGHT = 1.0
NO_WEIGHTS: Mapping[TenantId, float] = {}
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0

Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)]
"""A tenant's part relative to the others' parts."""

TenantWeight = Callable[[TenantId], float]
"""Returns the weight that a tenant has now."""


PromisedItl = Callable[[TenantId], float]
"""Returns the most seconds between tokens that a tenant is promised now."""


def nothing_promised(_tenant: TenantId) -> float:
    """Return what tenants are promised where no policy says anything: any time."""
    return math.inf


def equal_weight(_tenant: TenantId) -> float:
    """Return the weight that all tenants have where no file or policy names any."""
    return DEFAULT_WEIGHT


def weight_of(own: float | None, tier: float | None) -> float:
    """Return a tenant's weight: its tier's if the policy names one, else its own, else 1.

    Args:
        own: of the tenants file.
        tier: of the policy in force.
    """
    if tier is not None:
        return tier
    return DEFAULT_WEIGHT if own is None else own


def has_share(own: int, most: int, tenant: TenantId, weights: Mapping[TenantId, float]) -> bool:
    """Report whether a tenant has its share already of what is shared one by one.

    Args:
        own: what it has.
        most: what all may have.
        weights: of all tenants that are active, itself among them.
    """
    return own * sum(weights.values()) >= most * weights[tenant]


def owed_shares(weights: Mapping[TenantId, float]) -> dict[TenantId, float]:
    """Return the part of the whole, 0 to 1, that each tenant is owed.

    Args:
        weights: of all tenants that are active.
    """
    total = sum(weights.values())
    return {tenant: weight / total for tenant, weight in weights.items()}
