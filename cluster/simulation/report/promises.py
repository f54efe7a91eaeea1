"""Judges requests by the promise to their tenant."""

from cluster.domain.ids import TenantId
from cluster.placement.policy import ClusterPolicy, TierPolicy
from cluster.placement.policy.tiers import tier_of
from cluster.simulation.result import ServedRequest

UNPROMISED = "no tier"


def tier_name(policy: ClusterPolicy, tenant: TenantId) -> str:
    """Return the tenant's tier: that of the first pattern that matches, else ``UNPROMISED``."""
    return tier_of(policy.tenants, tenant) or UNPROMISED


def keeps_promise(served: ServedRequest, policy: ClusterPolicy) -> bool:
    """Report whether a request finished, and both its times are within its tier's promise.

    A tenant without a tier was promised no more than an answer.
    """
    if served.outcome != "ok":
        return False
    promise = _promise(policy, served.asked.tenant)
    if promise is None:
        return True
    return (served.ttft is None or served.ttft <= promise.ttft) and (
        served.itl is None or served.itl <= promise.itl
    )


def _promise(policy: ClusterPolicy, tenant: TenantId) -> TierPolicy | None:
    return policy.tiers.get(tier_name(policy, tenant))
