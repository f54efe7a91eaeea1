"""Finds fields of a policy that are right alone and contradict each other."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.placement.policy.problems import nearest
from cluster.placement.policy.schema import ClusterPolicy, CopyBounds, ReplicasPolicy, ScheduleEntry
from cluster.placement.policy.week import minute_of

_DAY_MINUTES = 24 * 60
_LONGEST_NIGHT = 20 * 60
"""Minutes of an entry that passes midnight; a longer one is a mistake in ``to``."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One of them."""

    path: str
    words: str
    others: tuple[str, ...] = ()
    """Paths of other fields that it depends on; where one is wrong itself, nothing is known."""


def contradictions(policy: ClusterPolicy) -> Iterator[Contradiction]:
    """Return all of them, section by section."""
    yield from _of_tenants(policy)
    yield from _of_tiers(policy)
    yield from _of_replicas(policy.replicas)
    for at, entry in enumerate(policy.replicas.schedule):
        yield from _of_entry(policy.replicas, entry, f"replicas.schedule[{at}]")
    yield from _of_placement(policy)
    yield from _of_adapters(policy)


def most_replicas(policy: ClusterPolicy) -> int:
    """Return the most replicas that may ever run."""
    return max([policy.replicas.max, *(entry.max or 0 for entry in policy.replicas.schedule)])


def _of_tenants(policy: ClusterPolicy) -> Iterator[Contradiction]:
    listed = f"; tiers are {', '.join(sorted(policy.tiers))}" if policy.tiers else ""
    for pattern, tier in policy.tenants.items():
        if tier not in policy.tiers:
            advice = nearest(tier, policy.tiers, otherwise=listed or "; name it under tiers")
            yield Contradiction(
                f"tenants.{pattern}", f"there is no tier {tier!r}{advice}", (f"tiers.{tier}",)
            )


def _of_tiers(policy: ClusterPolicy) -> Iterator[Contradiction]:
    replicas, most = most_replicas(policy), policy.placement.max_copies
    for name, tier in policy.tiers.items():
        least, path = tier.min_copies or 1, f"tiers.{name}.min_copies"
        if least > replicas:
            yield _more_than_replicas(least, replicas, path, "min_copies")
        if most is not None and least > most:
            yield Contradiction(
                path,
                f"{least} is above placement.max_copies {most}; lower it or raise max_copies",
                ("placement.max_copies",),
            )


def _more_than_replicas(copies: int, replicas: int, path: str, field: str) -> Contradiction:
    return Contradiction(
        path,
        f"{copies} copies need as many replicas, but replicas.max is {replicas}; lower {field} "
        "or raise replicas.max",
        ("replicas.max", "replicas.schedule"),
    )


def _of_replicas(replicas: ReplicasPolicy) -> Iterator[Contradiction]:
    low, high = replicas.min, replicas.max
    if low > high:
        yield Contradiction(
            "replicas.min",
            f"{low} is above replicas.max {high}; lower min or raise max",
            ("replicas.max",),
        )
    zeros = [
        f"replicas.schedule[{at}].min"
        for at, entry in enumerate(replicas.schedule)
        if entry.min == 0
    ]
    if low == 0:
        zeros.insert(0, "replicas.min")
    if replicas.zero_after is None:
        for path in zeros:
            yield Contradiction(
                path,
                "0 needs replicas.zero_after; set that to a time such as 15m, or this to 1",
                ("replicas.zero_after",),
            )
    elif not zeros:
        yield Contradiction(
            "replicas.zero_after",
            f"it needs min 0, and min is {low}; set min to 0 or leave zero_after out",
            ("replicas.min", "replicas.schedule"),
        )
    if replicas.mode == "off" and zeros:
        zero = zeros[0].removeprefix("replicas.")
        yield Contradiction(
            "replicas.mode",
            f"off keeps min replicas, and {zero} is 0; set that to at least 1",
            ("replicas.min", "replicas.schedule"),
        )


def _of_entry(replicas: ReplicasPolicy, entry: ScheduleEntry, path: str) -> Iterator[Contradiction]:
    begin, end = minute_of(entry.from_), minute_of(entry.to)
    ends = (f"{path}.from", f"{path}.to")
    length = (end - begin) % _DAY_MINUTES or (end - begin)
    if length == 0 or begin == _DAY_MINUTES:
        yield Contradiction(
            f"{path}.to", f"{entry.from_} to {entry.to} is empty; name a later time", ends
        )
    elif end < begin and length > _LONGEST_NIGHT:
        yield Contradiction(
            f"{path}.to",
            f"{entry.from_} to {entry.to} would last {length // 60} h {length % 60} min, into "
            "the next day; name a later time, or write two entries",
            ends,
        )
    if entry.min is None and entry.max is None:
        yield Contradiction(
            f"{path}.min", "the entry changes nothing; give min or max", (f"{path}.max",)
        )
    if entry.min is not None and entry.max is not None and entry.min > entry.max:
        yield Contradiction(
            f"{path}.min",
            f"{entry.min} is above max {entry.max}; lower min or raise max",
            (f"{path}.max",),
        )
    if entry.min is not None and entry.max is None and entry.min > replicas.max:
        yield Contradiction(
            f"{path}.min",
            f"{entry.min} is above replicas.max {replicas.max}; lower it, or give the entry a max",
            ("replicas.max", f"{path}.max"),
        )
    if entry.max is not None and entry.min is None and entry.max < replicas.min:
        yield Contradiction(
            f"{path}.max",
            f"{entry.max} is below replicas.min {replicas.min}; raise it, or give the entry a min",
            ("replicas.min", f"{path}.min"),
        )


def _of_placement(policy: ClusterPolicy) -> Iterator[Contradiction]:
    placement, replicas = policy.placement, most_replicas(policy)
    least, most = placement.min_copies, placement.max_copies
    if least > replicas:
        yield _more_than_replicas(least, replicas, "placement.min_copies", "min_copies")
    if most is not None and least > most:
        yield Contradiction(
            "placement.min_copies",
            f"{least} is above max_copies {most}; lower it or raise max_copies",
            ("placement.max_copies",),
        )
    if placement.retry_s > placement.max_retry_s:
        yield Contradiction(
            "placement.retry_s",
            f"{placement.retry_s:g} is above max_retry_s {placement.max_retry_s:g}; lower it or "
            "raise max_retry_s",
            ("placement.max_retry_s",),
        )


def _of_adapters(policy: ClusterPolicy) -> Iterator[Contradiction]:
    most = most_replicas(policy)
    seen: dict[tuple[str | None, str], int] = {}
    for at, rule in enumerate(policy.adapters):
        first = seen.setdefault((rule.owner, rule.adapter), at)
        if first != at:
            yield Contradiction(
                f"adapters[{at}].adapter",
                f'"{rule.adapter}" has a rule already, adapters[{first}]; remove one of the two',
                (f"adapters[{first}]", f"adapters[{at}].owner"),
            )
        yield from _of_bounds(rule.copies, most, f"adapters[{at}].copies")


def _of_bounds(copies: CopyBounds, replicas: int, path: str) -> Iterator[Contradiction]:
    low, high = copies.min, copies.max
    if low is None:
        if high is None:
            yield Contradiction(path, "the rule changes nothing; give min or max")
        return
    if high is not None and (low == "all" or low > high):
        yield Contradiction(
            f"{path}.min",
            f"{low} is above max {high}; lower min, or raise max or leave it out",
            (f"{path}.max",),
        )
    elif low != "all" and low > replicas:
        where, field = (path, "copies") if high is None else (f"{path}.min", "min")
        yield _more_than_replicas(low, replicas, where, field)
