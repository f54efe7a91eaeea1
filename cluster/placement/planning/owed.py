"""Says which sets a tenant is owed: the densest ones that its share of the pools has room for."""

from collections.abc import Iterable, Mapping

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.demand import AdapterSet
from cluster.placement.planning.plan import WantedSet
from cluster.placement.planning.rules import IDLE_RATE, PlanningRules


def owed_sets(
    wanted: Iterable[WantedSet],
    shares: Mapping[AdapterDigest, float],
    rules: PlanningRules,
    pools: float,
) -> dict[AdapterSet, TenantId]:
    """Return the owed sets with the first tenant to whom each is owed.

    Tenants share the pools by weight, in dominant shares: of slots or bytes, as is scarcer. A set
    counts to each of its tenants by its part of the rate. A tenant alone is owed nothing: no
    other takes its room.

    Args:
        wanted: densest first.
        shares: of a pool, by adapter.
        pools: number of pools to share.
    """
    asked: dict[TenantId, list[tuple[float, WantedSet]]] = {}
    for one in wanted:
        if one.hold >= IDLE_RATE:
            for tenant, part in one.tenants:
                asked.setdefault(tenant, []).append((part, one))
    if len(asked) < 2:
        return {}
    weights = sum(rules.weight_of(tenant) for tenant in asked)
    owed: dict[AdapterSet, TenantId] = {}
    for tenant in sorted(asked):
        left = pools * rules.weight_of(tenant) / weights
        counted: set[AdapterDigest] = set()
        for part, one in asked[tenant]:
            room = 0.0
            for digest in one.members:
                if digest not in counted:
                    room += part * shares[digest]
            if room <= left + 1e-9:
                left -= room
                counted.update(one.members)
                owed.setdefault(one.members, tenant)
    return owed
