"""Words a plan's decisions for people, with their figures."""

from cluster.placement.planning.plan import PlacedFor, PlannedSet, WantedSet


def fetch(rule: PlacedFor, one: WantedSet | None, copies: int, nbytes: int) -> str:
    """Return why an adapter is fetched: the rule, a colon, and figures."""
    size = f"{nbytes / 1e6:.1f} MB"
    if one is None:
        return f"{rule.value}: no demand, {size}"
    facts = f"{one.up:.2g}/s, work {one.work:.2g} of a replica"
    if copies > 1:
        facts += f" for {copies} copies"
    return f"{rule.value}: {facts}, {size}"


def of_set(planned: PlannedSet) -> str:
    """Return why a set is placed as it is."""
    words = [planned.rule.value]
    if planned.pinned:
        words[0] += f" to {planned.pinned}"
    if planned.replicas:
        words[0] += f" on {', '.join(planned.replicas[:3])}"
        if len(planned.replicas) > 3:
            words[0] += f" and {len(planned.replicas) - 3} more"
    one = planned.wanted
    if one is None:
        return f"{words[0]}: no demand"
    facts = (
        f"{one.up:.2g}/s, {one.saved:.2g} s/s saved for {one.size:.2g} of a pool, "
        f"work {one.work:.2g} of a replica"
    )
    bounds = ""
    if one.promised.copies > 1:
        bounds += f"; {one.promised.path} promises {one.promised.copies} copies"
    if planned.most is not None:
        bounds += f"; {planned.most} at most"
    parts = ", ".join(f"{tenant} {part:.0%}" for tenant, part in one.tenants[:3])
    return f"{words[0]}: {facts}; {parts}{bounds}"
