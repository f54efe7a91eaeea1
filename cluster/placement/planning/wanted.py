"""The demand as the planner reads it: by set, of all tenants together."""

from collections.abc import Mapping

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.clocks import FAST, down_rate, up_rate
from cluster.placement.demand.demand import AdapterSet, Demand
from cluster.placement.planning.plan import PlanInputs, WantedSet
from cluster.placement.planning.rules import IDLE_RATE


def lasting_rate(fast: float, slow: float) -> float:
    """Return the rate that a set is worth keeping for, in requests per second.

    What has just been asked for counts at once, or it would be evicted before it is asked for
    again. What is not asked for any more counts no more than one request on the fast clock.
    """
    return min(down_rate(fast, slow), fast + FAST)


def adapters_in_demand(demand: Demand) -> frozenset[AdapterDigest]:
    """Return the adapters with demand."""
    return frozenset(
        digest for rate in demand.rates if rate.down >= IDLE_RATE for digest in rate.key.adapters
    )


def pool_shares(inputs: PlanInputs) -> dict[AdapterDigest, float]:
    """Return each adapter's share of the largest pool: of its slots or bytes, as is scarcer."""
    slots = max((room.slots for room in inputs.replicas), default=1) or 1
    nbytes = max((room.bytes_limit for room in inputs.replicas), default=1) or 1
    return {info.digest: max(1.0 / slots, info.nbytes / nbytes) for info in inputs.adapters}


def wanted_sets(
    inputs: PlanInputs, shares: Mapping[AdapterDigest, float]
) -> dict[AdapterSet, WantedSet]:
    """Return the sets with demand whose members are all listed, densest first.

    The clocks of a set's tenants are added before they are compared.
    """
    by_set: dict[AdapterSet, list[tuple[TenantId, float, float, float]]] = {}
    for rate in inputs.demand.rates:
        members = rate.key.adapters
        if members:
            seconds = inputs.work.request_seconds(rate)
            by_set.setdefault(members, []).append(
                (rate.key.tenant, rate.fast, rate.slow, seconds * rate.slow)
            )
    loads = {info.digest: inputs.load.seconds(info.nbytes) for info in inputs.adapters}
    found = [
        _wanted(inputs, members, asking, shares, loads)
        for members, asking in by_set.items()
        if all(digest in shares for digest in members)
    ]
    asked = [one for one in found if one.down >= IDLE_RATE]
    asked.sort(key=lambda one: (-one.density, one.members))
    return {one.members: one for one in asked}


def _wanted(
    inputs: PlanInputs,
    members: AdapterSet,
    asking: list[tuple[TenantId, float, float, float]],
    shares: Mapping[AdapterDigest, float],
    loads: Mapping[AdapterDigest, float],
) -> WantedSet:
    fast = sum(one for _, one, _, _ in asking)
    slow = sum(one for _, _, one, _ in asking)
    seconds = sum(one for _, _, _, one in asking)
    both = fast + slow or 1.0
    parts = [(tenant, (one + other) / both) for tenant, one, other, _ in asking]
    parts.sort(key=lambda part: (-part[1], part[0]))
    return WantedSet(
        members=members,
        up=up_rate(fast, slow),
        down=down_rate(fast, slow),
        hold=lasting_rate(fast, slow),
        seconds=seconds / slow if slow else 0.0,
        load_s=max(loads[digest] for digest in members),
        size=sum(shares[digest] for digest in members),
        weight=sum(part * inputs.rules.weight_of(tenant) for tenant, part in parts),
        tenants=tuple(parts),
    )
