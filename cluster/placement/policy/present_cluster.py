"""Compares a policy with the cluster that it is for: tenants, adapters, room, replicas."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.placement.planning.pins import ResolvedPins, is_pattern, matching, resolve_pins
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy.contradictions import most_replicas
from cluster.placement.policy.problems import PolicyProblem, nearest
from cluster.placement.policy.schema import AdapterRule, ClusterPolicy

_HINTS = 5
"""Unknown tenants for which a name that is alike is looked for: each is compared with all names."""


@dataclass(frozen=True, slots=True)
class PresentCluster:
    """The facts about one cluster that a policy may contradict."""

    tenants: frozenset[str] = frozenset()
    adapters: tuple[AdapterInfo, ...] = ()
    slots: int | None = None  # of a replica; None: no replica has said it
    adapter_bytes: int | None = None  # that a replica has for adapters
    replicas: int = 0  # that run
    starting: int = 0  # beyond these


def problems_there(policy: ClusterPolicy, cluster: PresentCluster) -> Iterator[PolicyProblem]:
    """Return what this cluster can never do."""
    taken: dict[str, int] = {}  # bytes by digest, of what every replica is to have
    full = False
    matched = _matched(policy.adapters, cluster.adapters)
    for at, (rule, found) in enumerate(zip(policy.adapters, matched, strict=True)):
        path = f"adapters[{at}].copies"
        if cluster.adapter_bytes is not None and not is_pattern(rule.adapter):
            yield from _too_large(found, cluster.adapter_bytes, f"adapters[{at}].adapter")
        if rule.copies.min != "all" or full:
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
        yield from _too_many(policy, cluster, matched)


def advice_there(policy: ClusterPolicy, cluster: PresentCluster) -> Iterator[PolicyProblem]:
    """Return what has no effect in this cluster as it is now."""
    unknown = (p for p in policy.tenants if not is_pattern(p) and p not in cluster.tenants)
    for number, name in enumerate(unknown):
        known = cluster.tenants if number < _HINTS else ()
        words = "no such tenant" + nearest(name, known, otherwise=" yet")
        yield PolicyProblem(f"tenants.{name}", words)
    resolved = resolve_pins(policy.adapters, cluster.adapters)
    for words in resolved.unknown:
        path, _, reason = words.partition(": ")
        yield PolicyProblem(path, reason)
    yield from _overruled(resolved, policy, cluster)


def _overruled(
    resolved: ResolvedPins, policy: ClusterPolicy, cluster: PresentCluster
) -> Iterator[PolicyProblem]:
    """Warn of adapters of which one rule promises more copies than another one allows."""
    least = resolved.least_copies(most_replicas(policy))
    aliases = {info.digest: info.alias for info in cluster.adapters}
    for digest, most in resolved.most_copies().items():
        if least.get(digest, 0) > most:
            yield PolicyProblem(
                "adapters",
                f'"{aliases[digest]}" has at most {most} copies by one rule and at least '
                f"{least[digest]} by another, which wins; change one of the two",
            )


def _matched(
    rules: Iterable[AdapterRule], adapters: tuple[AdapterInfo, ...]
) -> list[tuple[AdapterInfo, ...]]:
    """Return the adapters of each rule; only patterns are compared with all adapters."""
    by_alias: dict[str, list[AdapterInfo]] = {}
    for info in adapters:
        by_alias.setdefault(info.alias, []).append(info)
    return [
        matching(rule, adapters if is_pattern(rule.adapter) else by_alias.get(rule.adapter, ()))
        for rule in rules
    ]


def _too_large(found: tuple[AdapterInfo, ...], room: int, path: str) -> Iterator[PolicyProblem]:
    for info in found:
        if info.nbytes > room:
            yield PolicyProblem(
                path,
                f'"{info.alias}" has {_mb(info.nbytes)}, and a replica has {_mb(room)} for '
                "adapters; raise adapters.memory_bytes of the cluster, or leave the rule out",
            )


def _too_many(
    policy: ClusterPolicy, cluster: PresentCluster, matched: Iterable[tuple[AdapterInfo, ...]]
) -> Iterator[PolicyProblem]:
    """Refuse more copies than there are places on the most replicas that may run."""
    if cluster.slots is None:
        return
    most = most_replicas(policy)
    copies: dict[str, int] = {}
    total = 0
    for at, (rule, found) in enumerate(zip(policy.adapters, matched, strict=True)):
        for info in found:
            before = copies.get(info.digest, 0)
            copies[info.digest] = max(before, _copies(rule, most))
            total += copies[info.digest] - before
        if total > cluster.slots * most:
            yield PolicyProblem(
                f"adapters[{at}].copies",
                f"with this rule {total} copies are promised, and {most} replicas "
                f"of {cluster.slots} slots hold {cluster.slots * most}; lower copies or raise "
                "replicas.max",
            )
            return


def _copies(rule: AdapterRule, most: int) -> int:
    return most if rule.copies.min == "all" else min(rule.copies.min or 0, most)


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.4g} MB"
