"""Times picks and the upkeep of a front's view, at 3 replicas x 8 slots and 1,000 x 64.

python -m benchmarks.placement.picking.pick

Between picks replicas send snapshots, whose residents, host copies and load differ from the last
ones, and requests are counted as sent and finished. Each of these is timed on its own. Prompts of a
tenant begin alike, replicas differ in speed, and garbage is collected as in a front.
"""

import argparse
import gc
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.placement.row import ResultRow
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.garbage import spare_long_lived
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.picking.prefix_affinity import LENGTHS
from cluster.placement.policy import PickingPolicy

NBYTES = 10_000_000
TENANTS = tuple(TenantId(f"tenant-{number}") for number in range(8))
PROMPT = 700  # tokens, of which replicas may have computed a beginning
PROMPTS = 32
"""Beginnings of prompts of one tenant."""
WORDS_PER_PICK = 4
"""Snapshots that come between two picks."""
BLOCKS = 7
ROWS = (
    ("N5a", 3, 8, "0.10 ms (median)", 0.10),
    ("N5b", 1000, 64, "75 ms (median)", 0.25),
)


@dataclass(frozen=True)
class Timings:
    """Seconds of each call."""

    firsts: list[float]  # of each set's first pick
    picks: list[float]
    updates: list[float]  # of a snapshot and of the host's copies
    sends: list[float]  # with the end of the request


class _Cluster:
    """Replicas that change between picks; adapters are Zipf-popular, pairs are asked for."""

    def __init__(self, replicas: int, slots: int, rng: random.Random) -> None:
        self.slots = slots
        self.rng = rng
        self.names = [ReplicaId(f"replica-{number:04d}") for number in range(replicas)]
        self.adapters = [AdapterDigest(f"{number:064x}") for number in range(replicas * slots // 2)]
        weights = [1 / (rank + 1) for rank in range(len(self.adapters))]
        self.weights = list(itertools.accumulate(weights))
        self.held = {name: self.some(slots - 1) for name in self.names}
        self.model = CostModel(slowness={name: rng.uniform(0.5, 2.0) for name in self.names})
        self.sequence = 0

    def some(self, count: int) -> list[AdapterDigest]:
        """Return distinct adapters, popular ones more often."""
        return list(
            dict.fromkeys(self.rng.choices(self.adapters, cum_weights=self.weights, k=count))
        )

    def on_host(self, name: ReplicaId) -> list[AdapterDigest]:
        """Return what the replica has copies of: what is on the device, and as much besides."""
        return [*self.held[name], *self.some(self.slots)]

    def request(self, pair: tuple[AdapterDigest, ...]) -> PickRequest:
        """Return a request of any tenant, whose prompt begins like others of it."""
        tenant = self.rng.randrange(len(TENANTS))
        begin = PROMPTS * tenant + self.rng.randrange(PROMPTS)
        prefix = tuple(hash((begin, length)) for length in LENGTHS if length <= PROMPT)
        return PickRequest(pair, TENANTS[tenant], (), PROMPT, 64, prefix)

    def snapshot(self, name: ReplicaId) -> ReplicaSnapshot:
        """Return what the replica says, after one of its adapters has made room for another."""
        held, rng = self.held[name], self.rng
        if len(held) >= self.slots - 1:
            held.pop(rng.randrange(len(held)))
        held[:] = dict.fromkeys([*held, *self.some(1)])
        self.sequence += 1
        running = rng.randrange(17)
        waiting = rng.sample(TENANTS, 2) if rng.random() < 0.3 else ()
        return ReplicaSnapshot(
            replica_id=name,
            address="",
            queued=rng.randrange(4) if running == 16 else 0,
            running=running,
            kv_blocks_total=1000,
            kv_blocks_free=1000 - 40 * running,
            slots_total=self.slots,
            adapter_bytes_limit=self.slots * NBYTES,
            adapter_bytes_used=len(held) * NBYTES,
            resident=tuple(
                ResidentAdapter(d, "", AdapterState.READY, NBYTES, 8, int(rng.random() < 0.2))
                for d in held
            ),
            draining=False,
            max_model_len=8192,
            sequence=self.sequence,
            max_batch_size=16,
            backlog=tuple((tenant, rng.randrange(2000)) for tenant in waiting),
        )


def measure(replicas: int, slots: int, picks: int, seed: int) -> Timings:
    """Return the times of so many picks and of what comes between them."""
    rng = random.Random(seed)
    cluster = _Cluster(replicas, slots, rng)
    view, picker = ClusterView(), Picker(PickingPolicy(), rng=random.Random(seed))
    view.follow(FrontOrders(0, 0, model=cluster.model))
    for name in cluster.names:
        view.update(cluster.snapshot(name), 0.0)
        view.set_on_host(name, cluster.on_host(name))
    clock = time.thread_time  # other processes share the cores
    timings = Timings([], [], [], [])
    pairs = [tuple(sorted(cluster.some(2))) for _ in range(4096)]
    thresholds = gc.get_threshold()
    spare_long_lived()
    try:
        for pair in pairs:  # ranking replicas for a set is done once
            request = cluster.request(pair)
            began = clock()
            picker.pick(view, request, 0.0)
            timings.firsts.append(clock() - began)
        now = 0.0
        for number in range(picks):
            now += 1e-3
            for name in rng.choices(cluster.names, k=WORDS_PER_PICK):
                snapshot, on_host = cluster.snapshot(name), cluster.on_host(name)
                began = clock()
                view.update(snapshot, now)
                view.set_on_host(name, on_host)
                timings.updates.append(clock() - began)
            request = cluster.request(rng.choice(pairs))
            began = clock()
            choice = picker.pick(view, request, now)
            timings.picks.append(clock() - began)
            began = clock()
            view.sent(RequestId(f"r{number}"), choice.replica_id, request, now)
            view.finished(RequestId(f"r{number - 500}"))
            timings.sends.append(clock() - began)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    return timings


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of all do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def rows(picks: int = 1000, seed: int = 0, blocks: int = BLOCKS) -> list[ResultRow]:
    """Return a row for each size of cluster, by the median of the blocks' p99."""
    found = []
    for name, replicas, slots, before, demanded in ROWS:
        measured = [measure(replicas, slots, picks, seed + block) for block in range(blocks)]
        p99s = [1e3 * percentile(timings.picks, 0.99) for timings in measured]
        middle = statistics.median(p99s)
        first = _median_ms([timings.firsts for timings in measured], 0.99)
        others = ", ".join(
            f"{what} p50 {_median_ms(calls, 0.5):.3f} p99 {_median_ms(calls, 0.99):.3f}"
            for what, calls in (
                ("pick", [timings.picks for timings in measured]),
                ("first pick of a set", [timings.firsts for timings in measured]),
                ("update", [timings.updates for timings in measured]),
                ("sent and finished", [timings.sends for timings in measured]),
            )
        )
        found.append(
            ResultRow(
                name,
                f"pick of a pair, p99 of CPU time, {replicas} replicas x {slots} slots, prefixes, "
                f"host tiers and replicas of different speed, garbage collected as in a front, "
                f"median of {blocks} blocks of {picks} picks",
                before,
                f"<= {demanded:.2f} ms",
                f"{middle:.3f} ms (blocks {min(p99s):.3f} to {max(p99s):.3f} ms); the first pick "
                f"of a set {first:.3f} ms",
                f"{sum(p99 <= demanded for p99 in p99s)} of {blocks} blocks within; medians of "
                f"blocks, ms: {others}",
                middle <= demanded,
            )
        )
    return found


def _median_ms(calls: Sequence[Sequence[float]], share: float) -> float:
    """Return the median of the blocks' percentiles, in milliseconds."""
    return 1e3 * statistics.median(percentile(times, share) for times in calls)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picks", type=int, default=1000, help="of a block")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for row in rows(options.picks, options.seed):
        print(f"{row.name}: {row.after} ({row.demanded}; before {row.before}); {row.interval}")


if __name__ == "__main__":
    main()
