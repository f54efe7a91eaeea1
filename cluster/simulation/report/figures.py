"""Figures of one run: everything that a report has a row for."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.tiers import tier_weight
from cluster.simulation.report.promises import keeps_promise, tier_name
from cluster.simulation.report.statistics import jain_index, quantile
from cluster.simulation.result import IN_FLIGHT, ServedRequest, SimulationResult
from cluster.tenancy.shares import NO_WEIGHTS, weight_of

Unit = Literal["s", "%", "MB", "h", ""]
Better = Literal["less", "more", "neither"]
QUANTILES = (0.5, 0.95, 0.99)
SHOWN_TENANTS = 8
"""The busiest tenants have rows of their own; the worst of all tenants has one anyway."""
LEAST_REQUESTS = 20
"""Of a tenant that may be the worst one: fewer are an accident."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Figure(NamedTuple):
    """One row of a report."""

    section: str
    name: str
    unit: Unit
    better: Better = "less"


Figures = Mapping[Figure, float]


def run_figures(
    result: SimulationResult,
    policy: ClusterPolicy,
    *,
    aliases: Mapping[AdapterDigest, str] | None = None,
    own_weights: Mapping[TenantId, float] = NO_WEIGHTS,
) -> dict[Figure, float]:
    """Compute the figures of one run, in the order of a report.

    Args:
        policy: names the tiers, their promises and weights; the same for all runs that are
            compared.
        aliases: adapters' names, which are left out of the reasons of moves.
        own_weights: of tenants, by their file.
    """
    figures: dict[Figure, float] = {}
    figures.update(_latencies("all requests", result.requests))
    figures.update(_outcomes("all requests", result.requests, policy))
    for tier, served in _by_tier(result.requests, policy).items():
        figures.update(_latencies(f"tier {tier}", served))
        figures.update(_outcomes(f"tier {tier}", served, policy))
    figures.update(_adapters(result, aliases or {}))
    figures.update(_replicas(result))
    tenants = _by_tenant(result.requests)
    figures.update(_fairness(tenants, policy, own_weights))
    if len(tenants) > 1:
        busiest = sorted(tenants, key=lambda tenant: (-len(tenants[tenant]), tenant))
        for tenant in sorted(busiest[:SHOWN_TENANTS]):
            figures.update(_latencies(f"tenant {tenant}", tenants[tenant]))
    return figures


def _latencies(section: str, requests: Iterable[ServedRequest]) -> Iterator[tuple[Figure, float]]:
    served = list(requests)
    for name, values in (
        ("TTFT", [item.ttft for item in served if item.ttft is not None]),
        ("ITL", [item.itl for item in served if item.itl is not None]),
        (
            "end to end",
            [item.e2e for item in served if item.outcome == "ok" and item.e2e is not None],
        ),
    ):
        ordered = sorted(values)
        for share in QUANTILES if ordered else ():
            yield Figure(section, f"{name} p{share * 100:g}", "s"), quantile(ordered, share)


def _outcomes(
    section: str, requests: Sequence[ServedRequest], policy: ClusterPolicy
) -> Iterator[tuple[Figure, float]]:
    if not requests:
        return
    sent = len(requests)
    yield Figure(section, "requests", "", "neither"), float(sent)
    kept = sum(keeps_promise(item, policy) for item in requests)
    yield Figure(section, "SLO attained", "%", "more"), kept / sent
    failed = sum(item.outcome not in ("ok", IN_FLIGHT) for item in requests)
    yield Figure(section, "refused or failed", "%"), failed / sent
    unfinished = sum(item.outcome == IN_FLIGHT for item in requests)
    if unfinished:
        yield Figure(section, "unfinished at the end", "%"), unfinished / sent


def _adapters(
    result: SimulationResult, aliases: Mapping[AdapterDigest, str]
) -> Iterator[tuple[Figure, float]]:
    section = "adapters"
    tiers = result.tiers
    picked = [item for item in result.requests if item.replica is not None]
    yield Figure(section, "found whole on the device", "%", "more"), result.whole_resident_share
    if picked:
        cold = sum(item.cold for item in picked) / len(picked)
        yield Figure(section, "sent where a member was missing", "%"), cold
    yield Figure(section, "loads from host memory", ""), float(tiers.loads_from_host)
    yield Figure(section, "loads from disk", ""), float(tiers.loads_from_disk)
    yield Figure(section, "loaded from host memory", "MB"), tiers.bytes_from_host / 1e6
    yield Figure(section, "loaded from disk", "MB"), tiers.bytes_from_disk / 1e6
    yield Figure(section, "evictions from the device", ""), float(tiers.evictions)
    yield Figure(section, "evictions from host memory", ""), float(tiers.evictions_host)
    yield Figure(section, "moved by the controller", "MB"), result.bytes_moved / 1e6
    reasons = Counter(
        f"{move.kind}: {reason_kind(move.reason, aliases.values())}" for move in result.moves
    )
    for reason, count in sorted(reasons.items()):
        yield Figure("moves by reason", reason, "", "neither"), float(count)


def reason_kind(reason: str, names: Iterable[str] = ()) -> str:
    """Cut a move's reason to its kind: no figures, no adapters' names, nothing after a colon."""
    words = reason.partition(":")[0]
    for name in sorted(set(names), key=lambda name: (-len(name), name)):
        words = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "\N{HORIZONTAL ELLIPSIS}", words)
    words = _NUMBER.sub("n", words)
    return re.sub(
        "\N{HORIZONTAL ELLIPSIS}(, \N{HORIZONTAL ELLIPSIS})+", "\N{HORIZONTAL ELLIPSIS}", words
    ).strip()


def _replicas(result: SimulationResult) -> Iterator[tuple[Figure, float]]:
    section = "replicas"
    yield Figure(section, "replica-hours", "h"), result.replica_seconds / 3600
    yield Figure(section, "changes of the count", ""), float(result.count_changes)
    if result.samples:
        most = max(sample.target for sample in result.samples)
        yield Figure(section, "most at once", "", "neither"), float(most)
        held = max(sample.held for sample in result.samples)
        yield Figure(section, "most requests held", ""), float(held)


def _fairness(
    tenants: Mapping[TenantId, Sequence[ServedRequest]],
    policy: ClusterPolicy,
    own_weights: Mapping[TenantId, float],
) -> Iterator[tuple[Figure, float]]:
    section = "tenants"
    if len(tenants) < 2:
        return
    shares = [
        sum(item.tokens for item in served)
        / weight_of(own_weights.get(tenant), tier_weight(policy, tenant))
        for tenant, served in tenants.items()
    ]
    yield Figure(section, "Jain index of tokens by weight", "", "more"), jain_index(shares)
    judged = [served for served in tenants.values() if len(served) >= LEAST_REQUESTS]
    if not judged:
        return
    attained = min(
        sum(keeps_promise(item, policy) for item in served) / len(served) for served in judged
    )
    yield Figure(section, "worst tenant's SLO attained", "%", "more"), attained
    slowest = [
        quantile(ordered, 0.95)
        for served in judged
        if (ordered := sorted(item.ttft for item in served if item.ttft is not None))
    ]
    if slowest:
        yield Figure(section, "worst tenant's TTFT p95", "s"), max(slowest)


def _by_tenant(requests: Iterable[ServedRequest]) -> dict[TenantId, list[ServedRequest]]:
    grouped: dict[TenantId, list[ServedRequest]] = defaultdict(list)
    for served in requests:
        grouped[served.asked.tenant].append(served)
    return grouped


def _by_tier(
    requests: Iterable[ServedRequest], policy: ClusterPolicy
) -> dict[str, list[ServedRequest]]:
    """Group requests by tier in the policy's order, or not at all if all have one tier."""
    grouped: dict[str, list[ServedRequest]] = {name: [] for name in policy.tiers}
    for tenant, served in _by_tenant(requests).items():
        grouped.setdefault(tier_name(policy, tenant), []).extend(served)
    present = {name: served for name, served in grouped.items() if served}
    return present if len(present) > 1 else {}
