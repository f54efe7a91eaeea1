"""The course of one run over time, cut to what pictures show."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest
from cluster.simulation.report.figures import SHOWN_TENANTS
from cluster.simulation.report.statistics import quantile
from cluster.simulation.result import SimulationResult

BINS = 120
"""Points of a rate over time."""
POINTS = 200
"""Points of a distribution."""
SHOWN_ADAPTERS = 40


@dataclass(frozen=True, slots=True)
class RunSeries:
    """Holds what is drawn of one run. Times are virtual seconds."""

    duration_s: float
    arrivals: tuple[tuple[float, float], ...]  # (time, requests per second)
    slow: tuple[tuple[float, float], ...]
    """(time, 95th percentile of the time to the first token), of what arrived around then."""
    wanted: tuple[tuple[float, int], ...]  # replicas asked for; changes only
    ready: tuple[tuple[float, int], ...]  # replicas that run; changes only
    moved: tuple[tuple[float, int], ...]  # bytes that the controller had fetched so far
    ttft: Mapping[str, tuple[float, ...]]  # by tenant, busiest first: quantiles, evenly spaced
    adapters: tuple[str, ...]  # the busiest, busiest first
    replicas: tuple[str, ...]  # in order of their first plan
    held: tuple[tuple[float, ...], ...]  # [adapter][replica]: share of the run in its plan


def run_series(
    result: SimulationResult, aliases: Mapping[AdapterDigest, str] | None = None
) -> RunSeries:
    """Cut a run to its pictures."""
    duration = max(result.duration_s, 1e-9)
    adapters, replicas, held = _placement_map(result, aliases or {})
    return RunSeries(
        duration_s=duration,
        arrivals=_arrivals(result, duration),
        slow=_slow(result, duration),
        wanted=_changes([(sample.at, sample.target) for sample in result.samples]),
        ready=_changes([(sample.at, sample.ready) for sample in result.samples]),
        moved=_moved(result, duration),
        ttft=_waits(result),
        adapters=adapters,
        replicas=replicas,
        held=held,
    )


def _arrivals(result: SimulationResult, duration: float) -> tuple[tuple[float, float], ...]:
    width = duration / BINS
    counts = Counter(min(BINS - 1, int(item.asked.at / width)) for item in result.requests)
    return tuple(((index + 0.5) * width, counts[index] / width) for index in range(BINS))


def _slow(result: SimulationResult, duration: float) -> tuple[tuple[float, float], ...]:
    width = duration / BINS
    waits: dict[int, list[float]] = defaultdict(list)
    for served in result.requests:
        if served.ttft is not None:
            waits[min(BINS - 1, int(served.asked.at / width))].append(served.ttft)
    return tuple(
        ((index + 0.5) * width, quantile(sorted(waits[index]), 0.95)) for index in sorted(waits)
    )


def _moved(result: SimulationResult, duration: float) -> tuple[tuple[float, int], ...]:
    points, nbytes = [(0.0, 0)], 0
    for move in result.moves:
        if move.kind == "prefetch":
            nbytes += move.nbytes
            points.append((move.at, nbytes))
    return (*_thinned(points), (duration, nbytes))


def _thinned(points: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    """Keep the highest of neighbouring points, about four for each bin."""
    step = max(1, len(points) // (4 * BINS))
    groups = (points[start : start + step] for start in range(0, len(points), step))
    return tuple(max(group, key=lambda point: point[1]) for group in groups)


def _changes(points: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    kept = [
        point
        for index, point in enumerate(points)
        if index in (0, len(points) - 1) or point[1] != points[index - 1][1]
    ]
    return tuple(kept)


def _waits(result: SimulationResult) -> dict[str, tuple[float, ...]]:
    waits: dict[str, list[float]] = defaultdict(list)
    for served in result.requests:
        if served.ttft is not None:
            waits[served.asked.tenant].append(served.ttft)
    busiest = sorted(waits, key=lambda tenant: (-len(waits[tenant]), tenant))[:SHOWN_TENANTS]
    return {
        tenant: tuple(
            quantile(ordered, (index + 1) / points)
            for points in (min(POINTS, len(ordered)),)
            for index in range(points)
        )
        for tenant in busiest
        for ordered in (sorted(waits[tenant]),)
    }


def _placement_map(
    result: SimulationResult, aliases: Mapping[AdapterDigest, str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Sum how long each adapter was in each replica's plan, as a share of the whole run."""
    seconds: dict[tuple[AdapterDigest, str], float] = defaultdict(float)
    order: dict[str, None] = {}
    open_since: dict[str, tuple[float, Sequence[AdapterDigest]]] = {}
    for sample in result.placements:
        order.setdefault(sample.replica)
        _close(seconds, open_since, sample.replica, sample.at)
        open_since[sample.replica] = (sample.at, sample.desired)
    for replica in list(open_since):
        _close(seconds, open_since, replica, result.duration_s)
    asked = Counter(digest for item in result.requests for digest in item.asked.adapters)
    totals: dict[AdapterDigest, float] = defaultdict(float)
    for (digest, _), held in seconds.items():
        totals[digest] += held
    rank = {digest: asked[digest] or asked[aliases.get(digest, "")] for digest in totals}
    shown = sorted(totals, key=lambda digest: (-rank[digest], -totals[digest], digest))
    shown = shown[:SHOWN_ADAPTERS]
    whole = max(result.duration_s, 1e-9)
    return (
        tuple(aliases.get(digest, digest[:12]) for digest in shown),
        tuple(order),
        tuple(tuple(seconds[digest, replica] / whole for replica in order) for digest in shown),
    )


def _close(
    seconds: dict[tuple[AdapterDigest, str], float],
    open_since: dict[str, tuple[float, Sequence[AdapterDigest]]],
    replica: str,
    until: float,
) -> None:
    since, desired = open_since.pop(replica, (until, ()))
    for digest in desired:
        seconds[digest, replica] += until - since
