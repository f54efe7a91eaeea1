"""Warns of what a policy says that has no effect, or another one than its writer may expect."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate

from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.policy.schema import ClusterPolicy
from cluster.placement.policy.tiers import LeastCopies

EVERYBODY = "*"
_WILDCARD = re.compile(r"[*?\[]")
TICK_S = 1.0
"""Seconds between the controller's looks, unless ``controller.interval_s`` says otherwise."""


def advice(policy: ClusterPolicy, tick_s: float = TICK_S) -> Iterator[PolicyProblem]:
    """Return what can be said without knowing the cluster."""
    used = set(policy.tenants.values())
    for tier in policy.tiers:
        if tier not in used:
            yield PolicyProblem(f"tiers.{tier}", "no tenant has this tier; name it under tenants")
    for pattern, first in _hidden(policy.tenants):
        yield PolicyProblem(
            f"tenants.{pattern}",
            f'"{first}" stands before it and matches the same tenants; write it before that',
        )
    if EVERYBODY not in policy.tenants:
        yield PolicyProblem(
            "tenants", f'no pattern "{EVERYBODY}": tenants that none matches are promised nothing'
        )
    if policy.replicas.forecast != "off" and policy.replicas.mode != "on":
        yield PolicyProblem(
            "replicas.forecast",
            f"adds no replica: replicas.mode is {policy.replicas.mode}",
        )
    for name, stable in (("up", policy.replicas.up.stable), ("down", policy.replicas.down.stable)):
        if stable < tick_s:
            yield PolicyProblem(
                f"replicas.{name}.stable",
                f"{stable:g} s is below the {tick_s:g} s between two looks: one look decides",
            )
    yield from _of_copies(policy)


def _of_copies(policy: ClusterPolicy) -> Iterator[PolicyProblem]:
    """Return bounds that keep promised copies from being kept."""
    promised = [
        LeastCopies(tier.min_copies or 1, f"tiers.{name}.min_copies")
        for name, tier in policy.tiers.items()
    ]
    promised.append(LeastCopies(policy.placement.min_copies))
    most, path = max(promised, key=lambda each: each.copies)
    for at, rule in enumerate(policy.adapters):
        if rule.copies.max is not None and rule.copies.max < most:
            yield PolicyProblem(
                f"adapters[{at}].copies.max",
                f"{rule.copies.max} is below {path} {most}, and the rule wins: no more than "
                f"{rule.copies.max} of the promised copies are kept",
            )
    bounds = {"replicas.max": policy.replicas.max}
    for at, entry in enumerate(policy.replicas.schedule):
        if entry.max is not None:
            bounds[f"replicas.schedule[{at}].max"] = entry.max
    for place, replicas in bounds.items():
        if replicas < most:
            yield PolicyProblem(
                place,
                f"{replicas} is below {path} {most}: while it holds, {replicas} of the promised "
                "copies are kept",
            )


def _hidden(patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Return patterns that never hold, each with the first one before it that matches as much.

    Only patterns that begin alike are compared: there may be thousands.
    """
    wide: dict[str, list[tuple[int, str, re.Pattern[str]]]] = {}
    """By what stands before their first wildcard."""
    for at, pattern in enumerate(patterns):
        begins = (pattern[:length] for length in range(len(pattern) + 1))
        before = (each for begin in begins for each in wide.get(begin, ()))
        first = min((each for each in before if each[2].match(pattern)), default=None)
        if first is not None:
            yield pattern, first[1]
        begin = _WILDCARD.split(pattern, maxsplit=1)[0]
        if begin != pattern:
            wide.setdefault(begin, []).append((at, pattern, re.compile(translate(pattern))))
