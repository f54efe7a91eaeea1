"""The demand as the planner reads it: by set, of all tenants together."""

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter

from cluster.domain.ids import AdapterDigest
from cluster.placement.demand.clocks import FAST, down_rate, up_rate
from cluster.placement.demand.demand import AdapterSet, Demand, DemandRate
from cluster.placement.planning.plan import PlanInputs, WantedSet
from cluster.placement.planning.rules import IDLE_RATE, PlanningRules
from cluster.placement.policy.tiers import LeastCopies


def lasting_rate(fast: float, up: float) -> float:
    """Return the rate that a set is worth keeping for, in requests per second.

    It is the slow clock's, as long as the requests behind the fast one do not say otherwise: that
    there are more of them by more than one deviation, or fewer by more than two.

    Args:
        up: the rate that must be served.
    """
    return min(up, fast + FAST * (1.0 + 2.0 * math.sqrt(fast / FAST)))


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
    by_set: dict[AdapterSet, list[DemandRate]] = {}
    for rate in inputs.demand.rates:
        members = rate.key.adapters
        if members and all(map(shares.__contains__, members)):
            by_set.setdefault(members, []).append(rate)
    loads = {info.digest: inputs.load.seconds(info.nbytes) for info in inputs.adapters}
    found = [_wanted(inputs, members, asking, shares, loads) for members, asking in by_set.items()]
    wanted = [one for one in found if one is not None]
    wanted.sort(key=attrgetter("members"))
    wanted.sort(key=attrgetter("density"), reverse=True)
    return {one.members: one for one in wanted}


def _wanted(
    inputs: PlanInputs,
    members: AdapterSet,
    asking: Sequence[DemandRate],
    shares: Mapping[AdapterDigest, float],
    loads: Mapping[AdapterDigest, float],
) -> WantedSet | None:
    """Return one set's figures; None: it is asked for so little that it counts as unused."""
    (rate, *others), weight_of = asking, inputs.rules.weight_of
    fast, slow, up, down = rate.fast, rate.slow, rate.up, rate.down
    if others:
        fast, slow = math.fsum([r.fast for r in asking]), math.fsum([r.slow for r in asking])
        up, down = up_rate(fast, slow), down_rate(fast, slow)
    if down < IDLE_RATE:
        return None
    if others:
        work = math.fsum([inputs.work.request_seconds(r) * r.slow for r in asking])
        parts = [(r.key.tenant, (r.fast + r.slow) / (fast + slow)) for r in asking]
        parts.sort(key=lambda part: (-part[1], part[0]))
        weight = math.fsum([part * weight_of(tenant) for tenant, part in parts])
    else:
        work = inputs.work.request_seconds(rate) * slow
        parts = [(rate.key.tenant, 1.0)]
        weight = weight_of(rate.key.tenant)
    seconds = work / (slow or 1.0)
    load_s = max([loads[digest] for digest in members])
    size = sum([shares[digest] for digest in members])
    hold = lasting_rate(fast, up)
    saved = weight * hold * load_s
    return WantedSet(
        members,
        up,
        hold,
        up * seconds,
        down * seconds,
        load_s,
        size,
        saved,
        round(saved / size, 9),
        tuple(parts),
        _promised(inputs.rules, asking),
    )


def _promised(rules: PlanningRules, asking: Sequence[DemandRate]) -> LeastCopies:
    """Return the copies that a set's tenants are promised: the most whose tenants do ask for it."""
    if not rules.promised:
        return rules.promised_to(asking[0].key.tenant)
    rates = [(rules.promised_to(rate.key.tenant), rate) for rate in asking]
    rates.sort(key=lambda each: (-each[0].copies, each[0].path, each[1].key.tenant))
    fast = slow = 0.0
    for promised, rate in rates:
        fast, slow = fast + rate.fast, slow + rate.slow
        if down_rate(fast, slow) >= IDLE_RATE:
            return promised
    return rates[-1][0]
