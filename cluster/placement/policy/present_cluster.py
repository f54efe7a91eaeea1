"""Compares a policy with the cluster that it is for: tenants, adapters, room, replicas."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.placement.planning.pins import is_pattern, matching, resolve_pins
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy.contradictions import most_replicas
from cluster.placement.policy.problems import PolicyProblem, nearest
from cluster.placement.policy.schema import AdapterRule, ClusterPolicy


@dataclass(frozen=True, slots=True)
class PresentCluster:
    """The facts about one cluster that a policy may contradict."""

    tenants: frozenset[str] = frozenset()
    adapters: tuple[AdapterInfo, ...] = ()
    slots: int | None = None  # of a replica; None: no replica has said it
    adapter_bytes: int | None = None  # that a replica has for adapters
    replicas: int = 0  # that run


def problems_there(policy: ClusterPolicy, cluster: PresentCluster) -> Iterator[PolicyProblem]:
    """Return what this cluster can never do."""
    taken: dict[str, int] = {}  # bytes by digest, of what every replica is to have
    full = False
    for at, rule in enumerate(policy.adapters):
        found = matching(rule, cluster.adapters)
        path = f"adapters[{at}].copies"
        if cluster.adapter_bytes is not None and not is_pattern(rule.adapter):
            yield from _too_large(found, cluster.adapter_bytes, f"adapters[{at}].adapter")
        if rule.copies != "all" or full:
            continue
        taken |= {info.digest: info.nbytes for info in found}
        if cluster.slots is not None and len(taken) > cluster.slots:
            full = True
            yield PolicyProblem(
                path,
                f"{len(taken)} adapters on every replica need as many slots, and a replica has "
                f"{cluster.slots}; give numbers of copies in place of all",
            )
        elif cluster.adapter_bytes is not None and sum(taken.values()) > cluster.adapter_bytes:
            full = True
            yield PolicyProblem(
                path,
                f"{len(taken)} adapters on every replica take {_mb(sum(taken.values()))}, and a "
                f"replica has {_mb(cluster.adapter_bytes)}; give numbers of copies in place of all",
            )
    if not full:
        yield from _too_many(policy, cluster)


def advice_there(policy: ClusterPolicy, cluster: PresentCluster) -> Iterator[PolicyProblem]:
    """Return what has no effect in this cluster as it is now."""
    for pattern in policy.tenants:
        if not is_pattern(pattern) and pattern not in cluster.tenants:
            yield PolicyProblem(
                f"tenants.{pattern}",
                "no such tenant" + nearest(pattern, cluster.tenants, otherwise=" yet"),
            )
    for words in resolve_pins(policy.adapters, cluster.adapters).unknown:
        path, _, reason = words.partition(": ")
        yield PolicyProblem(path, reason)


def _too_large(found: tuple[AdapterInfo, ...], room: int, path: str) -> Iterator[PolicyProblem]:
    for info in found:
        if info.nbytes > room:
            yield PolicyProblem(
                path,
                f'"{info.alias}" has {_mb(info.nbytes)}, and a replica has {_mb(room)} for '
                "adapters; raise adapters.memory_bytes of the cluster, or leave the rule out",
            )


def _too_many(policy: ClusterPolicy, cluster: PresentCluster) -> Iterator[PolicyProblem]:
    """Refuse more copies than there are places on the most replicas that may run."""
    if cluster.slots is None:
        return
    most = most_replicas(policy)
    copies: dict[str, int] = {}
    for at, rule in enumerate(policy.adapters):
        for info in matching(rule, cluster.adapters):
            copies[info.digest] = max(copies.get(info.digest, 0), _copies(rule, most))
        if sum(copies.values()) > cluster.slots * most:
            yield PolicyProblem(
                f"adapters[{at}].copies",
                f"with this rule {sum(copies.values())} copies are promised, and {most} replicas "
                f"of {cluster.slots} slots hold {cluster.slots * most}; lower copies or raise "
                "replicas.max",
            )
            return


def _copies(rule: AdapterRule, most: int) -> int:
    return most if rule.copies == "all" else min(rule.copies, most)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.4g} MB"
