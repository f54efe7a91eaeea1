"""Measures the replica count: at a constant rate, and with more adapters than fit.

Braid's scaling and a count of requests in flight, as the common autoscalers take it, decide on
the same arrivals. Replicas are plain: requests of one replica slow each other down by the step's
cost, and an adapter that is missing is loaded in place of the one that was used longest ago.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from benchmarks.placement.row import ResultRow
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.demand.rates import DemandRates
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.placement.scaling.count import CountScaler, ReplicaShape, ScaleInputs
from cluster.simulation.trace import TraceRequest

TENANT = TenantId("acme")
WALL = datetime(2026, 1, 5, tzinfo=UTC)
MODEL = CostModel()
SLOTS = 8
ADAPTER_BYTES = 9_800_000
COLD_HALF_LIFE_S = 60.0
SEEDS = 10


def constant_arrivals(
    rate: float, adapters: int, seconds: float, generated: int, seed: int
) -> list[TraceRequest]:
    """Return Poisson arrivals of a constant rate, spread evenly over the adapters."""
    rng = random.Random(seed)
    found: list[TraceRequest] = []
    at = rng.expovariate(rate)
    while at < seconds:
        adapter = f"a{rng.randrange(adapters)}"
        tokens = max(1, round(rng.uniform(0.5, 1.5) * generated))
        found.append(TraceRequest(at, TENANT, (adapter,), 64, tokens, tokens))
        at += rng.expovariate(rate)
    return found


@dataclass
class Look:
    """The cluster as a scaler sees it, once a second."""

    now: float
    target: int
    ready: int
    starting_for_s: float | None
    in_flight: int
    cold: float | None


class Scaler(Protocol):
    """Decides the count of one run."""

    def arrive(self, request: TraceRequest) -> None:
        """Count a request when it arrives."""

    def finish(self, request: TraceRequest) -> None:
        """Count the end of a request."""

    def count(self, look: Look) -> int:
        """Return the replicas to have from now on."""


class Braid:
    """The parts that run in the cluster: counters, rates, count."""

    def __init__(self, policy: ClusterPolicy, places: int) -> None:
        self._policy = policy
        self._shape = ReplicaShape(SLOTS, SLOTS * ADAPTER_BYTES, places)
        self._counters = DemandCounters()
        self._rates = DemandRates()
        self._scaler = CountScaler()
        self._reports = 0

    def arrive(self, request: TraceRequest) -> None:
        self._counters.arrive(_key(request), request.prompt_tokens)

    def finish(self, request: TraceRequest) -> None:
        self._counters.finish(_key(request), request.generated_tokens)

    def count(self, look: Look) -> int:
        report = self._counters.changed_since(self._reports, look.now)
        self._reports += 1
        self._counters.compose(self._reports, look.now)
        self._rates.observe("front", report, look.now)
        demand = self._rates.demand(look.now)
        sizes = {one: ADAPTER_BYTES for rate in demand.rates for one in rate.key.adapters}
        decision = self._scaler.decide(
            ScaleInputs(
                policy=self._policy,
                demand=demand,
                model=MODEL,
                shape=self._shape,
                adapter_bytes=sizes,
                target=look.target,
                ready=look.ready,
                starting_for_s=look.starting_for_s,
                backlog_s=0.0,
                in_flight=look.in_flight,
                predicted_ttft={},
                cold=look.cold,
                least=0,
                complete=True,
                wall=WALL,
            ),
            look.now,
        )
        return decision.goal


class RequestsInFlight:
    """A number of requests per replica, with a tolerance; the highest wish of 5 minutes holds."""

    def __init__(self, policy: ClusterPolicy, per_replica: float) -> None:
        self._replicas = policy.replicas
        self._per_replica = per_replica
        self._last: deque[int] = deque(maxlen=15)
        self._wishes: deque[int] = deque(maxlen=300)

    def arrive(self, request: TraceRequest) -> None:
        """Count nothing: requests are seen where they run."""

    def finish(self, request: TraceRequest) -> None:
        """Count nothing: requests are seen where they run."""

    def count(self, look: Look) -> int:
        self._last.append(look.in_flight)
        ratio = statistics.fmean(self._last) / (self._per_replica * look.target)
        wish = look.target if abs(ratio - 1.0) <= 0.1 else math.ceil(ratio * look.target)
        self._wishes.append(wish)
        highest = max(self._wishes)
        wish = wish if wish > look.target else min(look.target, highest)
        return min(max(wish, self._replicas.min), self._replicas.max)


@dataclass
class _CountedReplica:
    ready_at: float
    running: int = 0
    resident: OrderedDict[str, int] = field(default_factory=OrderedDict)  # users, by last use


@dataclass
class CountRun:
    """The outcome of one run."""

    counts: list[int]  # one a second
    colds: list[tuple[float, bool]]  # (arrived at, its adapter was missing)

    @property
    def changes(self) -> int:
        """Return how often the count changed."""
        return sum(a != b for a, b in itertools.pairwise(self.counts))

    def cold_share(self, begin: float) -> float:
        """Return the share of requests from ``begin`` on whose adapter was missing."""
        return statistics.fmean(cold for at, cold in self.colds if at >= begin)


def run(
    trace: Sequence[TraceRequest], scaler: Scaler, *, replicas: int, places: int, seconds: int
) -> CountRun:
    """Serve the arrivals while the scaler decides the count once a second.

    A replica computes ``places`` requests at once; more of them share its time.
    """
    cluster = [_CountedReplica(0.0) for _ in range(replicas)]
    ends: list[tuple[float, int, _CountedReplica, TraceRequest]] = []
    arrivals: Iterator[TraceRequest] = iter(trace)
    due = next(arrivals, None)
    outcome = CountRun([], [])
    cold = picked = 0.0
    fade = 0.5 ** (1.0 / COLD_HALF_LIFE_S)
    for second in range(1, seconds + 1):
        while due is not None and due.at <= second:
            _finish(ends, due.at, scaler)
            scaler.arrive(due)
            missing = _serve(due, cluster, ends, places, len(outcome.colds))
            outcome.colds.append((due.at, missing))
            cold, picked = cold + missing, picked + 1
            due = next(arrivals, None)
        _finish(ends, float(second), scaler)
        starts = [one for one in cluster if one.ready_at > second]
        look = Look(
            float(second),
            len(cluster),
            len(cluster) - len(starts),
            second - min(one.ready_at for one in starts) + MODEL.start_s if starts else None,
            len(ends),
            cold / picked if picked >= 20 else None,
        )
        cold, picked = cold * fade, picked * fade
        count = scaler.count(look)
        cluster += [_CountedReplica(second + MODEL.start_s) for _ in range(count - len(cluster))]
        del cluster[count:]
        outcome.counts.append(count)
    return outcome


def _serve(
    request: TraceRequest,
    cluster: list[_CountedReplica],
    ends: list[tuple[float, int, _CountedReplica, TraceRequest]],
    places: int,
    number: int,
) -> bool:
    """Send a request to a replica; returns whether its adapter was missing there."""
    (adapter,) = request.adapters
    ready = [one for one in cluster if one.ready_at <= request.at]
    free = [one for one in ready if one.running < places] or ready
    holders = [one for one in free if adapter in one.resident]
    missing = not holders
    chosen = min(
        holders or free,
        key=lambda one: (missing and len(one.resident) >= SLOTS, one.running),
    )
    if missing and len(chosen.resident) >= SLOTS:
        idle = next((name for name, users in chosen.resident.items() if not users), None)
        if idle is not None:
            del chosen.resident[idle]
    chosen.resident[adapter] = chosen.resident.get(adapter, 0) + 1
    chosen.resident.move_to_end(adapter)
    chosen.running += 1
    step = MODEL.step
    rows = min(chosen.running, places)
    crowd = max(1.0, chosen.running / places)
    seconds = request.prompt_tokens * step.per_prefill_token
    seconds += request.generated_tokens * (step.per_step + step.per_decode_row * rows) * crowd
    if missing:
        seconds += MODEL.disk_load.seconds(ADAPTER_BYTES)
    heapq.heappush(ends, (request.at + seconds, number, chosen, request))
    return missing


def _finish(
    ends: list[tuple[float, int, _CountedReplica, TraceRequest]], now: float, scaler: Scaler
) -> None:
    while ends and ends[0][0] <= now:
        _, _, replica, request = heapq.heappop(ends)
        replica.running -= 1
        (adapter,) = request.adapters
        replica.resident[adapter] = max(0, replica.resident.get(adapter, 1) - 1)
        scaler.finish(request)


def _key(request: TraceRequest) -> DemandKey:
    return DemandKey(request.tenant, tuple(AdapterDigest(one) for one in request.adapters))


def constant_rate_row(seeds: int) -> ResultRow:
    """Count the changes in an hour at 3.6 requests a second, by the default policy."""
    policy = ClusterPolicy()
    ours: list[int] = []
    theirs: list[int] = []
    for seed in range(seeds):
        trace = constant_arrivals(3.6, 6, 3600.0, 38, seed)  # a replica alone is just too slow
        for found, scaler in (
            (ours, Braid(policy, 4)),
            (theirs, RequestsInFlight(policy, 8.0)),
        ):
            found.append(run(trace, scaler, replicas=1, places=4, seconds=3600).changes)
    return ResultRow(
        "N1",
        "changes of the count in an hour at a constant 3.6/s, default policy; "
        f"8 requests in flight per replica: {_range(theirs)}",
        "41",
        "<= 1",
        f"{statistics.median(ours):g}",
        f"{seeds} seeds, {_range(ours)}",
        max(ours) <= 1,
    )


def widening_row(seeds: int) -> ResultRow:
    """Measure cold requests at 6/s over 64 adapters, from 2 replicas of 8 slots on."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=2, max=12))
    begin = 3.0 * MODEL.start_s + 60.0
    ours, counts, theirs, their_counts = [], [], [], []
    for seed in range(seeds):
        trace = constant_arrivals(6.0, 64, 900.0, 30, seed)
        mine = run(trace, Braid(policy, 16), replicas=2, places=16, seconds=900)
        rival = run(trace, RequestsInFlight(policy, 8.0), replicas=2, places=16, seconds=900)
        ours.append(100.0 * mine.cold_share(begin))
        counts.append(mine.counts[-1])
        theirs.append(100.0 * rival.cold_share(begin))
        their_counts.append(max(rival.counts))
    return ResultRow(
        "N2",
        f"cold requests at 6/s over 64 adapters from 2 replicas of 8 slots, {begin:g} s after "
        f"the start; requests in flight: {statistics.fmean(theirs):.0f} % with "
        f"{_range(their_counts)} replicas",
        "77 % with 2 replicas",
        "<= 2 %",
        f"{statistics.fmean(ours):.2f} % with {_range(counts)} replicas",
        f"{seeds} seeds, +- {_interval(ours):.2f} %",
        max(ours) <= 2.0,
    )


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _interval(values: Sequence[float]) -> float:
    """Return half the 95 % interval of a mean."""
    if len(values) < 2:
        return math.nan
    return 1.96 * statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    """Print both rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    for row in (constant_rate_row(seeds), widening_row(seeds)):
        print(row)


if __name__ == "__main__":
    main()
