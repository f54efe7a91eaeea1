"""Compares two policies key by key, with what follows for the cluster as it runs now."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy.present_cluster import PresentCluster
from cluster.placement.policy.schema import ClusterPolicy, CopyBounds
from cluster.placement.policy.tiers import least_copies, replicas_promised, tier_of
from cluster.placement.scaling.schedule import bounds_at

MISSING = "(none)"
_NAMED = 5
"""Tenants that one line names."""


@dataclass(frozen=True, slots=True)
class PolicyDifference:
    """One field that two policies give different values."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path} {_word(self.before)} -> {_word(self.after)}"


def differences(before: ClusterPolicy, after: ClusterPolicy) -> tuple[PolicyDifference, ...]:
    """Return every field whose value differs, defaults included, in the order of the schema.

    The last one is the order of the patterns under ``tenants``, where it differs.
    """
    old, new = flattened(before), flattened(after)
    return (
        *(
            PolicyDifference(path, old.get(path, MISSING), new.get(path, MISSING))
            for path in dict.fromkeys((*old, *new))
            if old.get(path, MISSING) != new.get(path, MISSING)
        ),
        *_of_order(before.tenants, after.tenants),
    )


def consequences(
    before: ClusterPolicy, after: ClusterPolicy, cluster: PresentCluster, wall: datetime
) -> Iterator[str]:
    """Return what the cluster will do once the later policy is in force.

    Args:
        wall: the present, aware; the schedules are looked at then.
    """
    yield from _of_count(before, after, cluster, wall)
    if before.replicas.forecast != after.replicas.forecast:
        yield {
            "off": "replicas are added for the load that is there",
            "trend": "replicas are added for the load that the last minutes lead to; none goes "
            "for it",
            "daily": "replicas are added for the load of this time of day, once that was nearer "
            "than the trend for most of a day; none goes for it",
        }[after.replicas.forecast]
    if before.placement.mode != after.placement.mode:
        yield {
            "on": "adapters are placed from the next tick on",
            "observe": "plans are made and not sent; replicas keep what they have",
            "off": "nothing is placed any more; what replicas have stays until its room is needed",
        }[after.placement.mode]
    yield from _of_promises(before, after, cluster.tenants)
    yield from _of_rules(before, after, cluster)
    for tenant in sorted(cluster.tenants):
        was, is_now = tier_of(before.tenants, tenant), tier_of(after.tenants, tenant)
        if was != is_now:
            yield f"tenant {tenant}: {was or 'no tier'} -> {is_now or 'no tier'}"


def flattened(policy: ClusterPolicy) -> dict[str, Any]:
    """Return every value by its path."""
    return dict(_leaves(policy.model_dump(mode="json", by_alias=True), ""))


def _of_order(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[PolicyDifference]:
    """Compare the order of the patterns that both have, as the first that matches holds."""
    old = [pattern for pattern in before if pattern in after]
    new = [pattern for pattern in after if pattern in before]
    moved = [at for at, pattern in enumerate(old) if new[at] != pattern]
    if moved:
        part = slice(moved[0], moved[-1] + 1)
        yield PolicyDifference("tenants", old[part], new[part])


def _of_count(
    before: ClusterPolicy, after: ClusterPolicy, cluster: PresentCluster, wall: datetime
) -> Iterator[str]:
    was, now = (_bounds(policy, cluster, wall) for policy in (before, after))
    mode, count = after.replicas.mode, cluster.replicas + cluster.starting
    if was == now and before.replicas.mode == mode:
        return
    low, high = now
    if mode == "observe":
        yield f"the count stays at {count}: replicas.mode is observe"
        return
    if mode == "off":
        high = low
    there, comma = f"{cluster.replicas} run now", " and"
    if cluster.starting:
        verb = "starts" if cluster.starting == 1 else "start"
        there, comma = f"{there} and {_some(cluster.starting)} more {verb}", ","
    if count > high:
        yield f"{there}{comma} at most {high} may: {_some(count - high)} will be drained"
    elif count < low:
        yield f"{there}{comma} at least {low} must: {_some(low - count)} will be started"
    else:
        yield f"{there}, within {low} to {high}: none is added or drained at once"


def _bounds(policy: ClusterPolicy, cluster: PresentCluster, wall: datetime) -> tuple[int, int]:
    """Return the least and the most replicas, with those that promised copies need."""
    low, high = bounds_at(policy.replicas, wall)
    if low and policy.replicas.mode != "off":
        pinned = resolve_pins(policy.adapters, cluster.adapters).replicas_needed(high)
        low = min(max(low, pinned, replicas_promised(policy, cluster.tenants)), high)
    return low, high


def _of_promises(
    before: ClusterPolicy, after: ClusterPolicy, tenants: Iterable[str]
) -> Iterator[str]:
    """Say of whose sets there will be more or fewer copies, by number."""
    changed: dict[tuple[int, int], list[str]] = {}
    for tenant in sorted(tenants):
        was, is_now = (least_copies(policy, tenant).copies for policy in (before, after))
        if was != is_now:
            changed.setdefault((was, is_now), []).append(tenant)
    for (was, is_now), names in sorted(changed.items()):
        listed = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            listed += f" and {len(names) - _NAMED} more"
        yield f"{is_now} copies, {was} before, of each set that is asked for by {listed}"


def _of_rules(
    before: ClusterPolicy, after: ClusterPolicy, cluster: PresentCluster
) -> Iterator[str]:
    """Say of which adapters copies are promised or bounded otherwise."""
    old, new = (
        {(rule.owner, rule.adapter): rule.copies for rule in policy.adapters}
        for policy in (before, after)
    )
    when = "from the next tick on"
    if after.placement.mode != "on":
        when = "once placement.mode is on"
    for owner, adapter in {**old, **new}:
        was, now = (rules.get((owner, adapter), CopyBounds()) for rules in (old, new))
        name = f'"{adapter}"' if owner is None else f'"{owner}/{adapter}"'
        if now.min != was.min:
            yield f"{name}: {_promise(was.min, now.min, cluster, when)}"
        if now.max == was.max:
            continue
        if now.max is None:
            yield f"{name}: no rule bounds its copies any more"
        else:
            yield (
                f"{name}: at most {now.max} placed {when}; others stay until their room is "
                "needed, and requests may bring in more"
            )


def _promise(
    was: int | Literal["all"] | None,
    now: int | Literal["all"] | None,
    cluster: PresentCluster,
    when: str,
) -> str:
    if now is None:
        return (
            f"its rule promises no copies {when}; demand decides, and what is there stays until "
            "its room is needed"
        )
    copies = "one on every replica" if now == "all" else f"at least {now}"
    before = "none was promised before" if was is None else f"{was} before"
    if _copies(now, cluster) <= _copies(was, cluster):
        return f"{copies} placed {when}, {before}; others stay until their room is needed"
    return f"{copies} placed {when}, {before}; what is missing is prefetched"


def _copies(promised: int | Literal["all"] | None, cluster: PresentCluster) -> float:
    """Return copies for comparison: a copy on every replica is as many as there are."""
    return max(cluster.replicas, 1) if promised == "all" else promised or 0


def _some(count: int) -> str:
    return "one" if count == 1 else str(count)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{at}]")
    else:
        yield path, value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    if value is True or value is False:
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
