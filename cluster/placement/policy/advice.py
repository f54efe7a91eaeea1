"""Warns of what a policy says that has no effect, or another one than its writer may expect."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.policy.schema import ClusterPolicy

EVERYBODY = "*"
TICK_S = 1.0
"""Seconds between the controller's looks, unless ``controller.interval_s`` says otherwise."""


def advice(policy: ClusterPolicy, tick_s: float = TICK_S) -> Iterator[PolicyProblem]:
    """Return what can be said without knowing the cluster."""
    used = set(policy.tenants.values())
    for tier in policy.tiers:
        if tier not in used:
            yield PolicyProblem(f"tiers.{tier}", "no tenant has this tier; name it under tenants")
    patterns = list(policy.tenants)
    for at, pattern in enumerate(patterns):
        first = next((p for p in patterns[:at] if fnmatchcase(pattern, p)), None)
        if first is not None:
            yield PolicyProblem(
                f"tenants.{pattern}",
                f'"{first}" stands before it and matches the same tenants; write it before that',
            )
    if EVERYBODY not in patterns:
        yield PolicyProblem(
            "tenants", f'no pattern "{EVERYBODY}": tenants that none matches are promised nothing'
        )
    for name, stable in (("up", policy.replicas.up.stable), ("down", policy.replicas.down.stable)):
        if stable < tick_s:
            yield PolicyProblem(
                f"replicas.{name}.stable",
                f"{stable:g} s is below the {tick_s:g} s between two looks: one look decides",
            )
