"""Compares rules of picking where requests might leave replicas with free places.

python -m benchmarks.placement.spill --seeds 10

Nothing is placed: only picks and the pools' own eviction are at work. Steps take 22 ms and 1 ms for
each sequence, loads .35 s.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.placement.choosers import CHOOSERS
from benchmarks.placement.row import ResultRow
from benchmarks.placement.spill_loads import moving_hot_set, pairs
from benchmarks.placement.step_cluster import Arrival, StepCluster

T_95 = 2.26
"""Of Student's distribution with 9 degrees of freedom; a little wide for more seeds."""


@dataclass(frozen=True)
class SpillLoad:
    """One load, with the figures of the picker before (bound on counts, slack 1)."""

    name: str
    arrivals: Callable[[int], list[Arrival]]
    resident_before: float
    end_to_end_before: float  # milliseconds, on this load
    resident_demanded: float


LOADS = (
    SpillLoad("6 hot of 30 adapters, others each 60 s", moving_hot_set, 0.978, 589.2, 0.945),
    SpillLoad("12 pairs over 3 x 8 slots", pairs, 0.917, 614.3, 0.995),
)


@dataclass(frozen=True)
class SpillFigures:
    """Of one rule under one load, by seed."""

    resident: list[float]  # share of requests whose whole set was on the device
    wait: list[float]  # ms until the first step
    end_to_end: list[float]  # ms
    loads: list[float]


def measure(rule: str, load: SpillLoad, seeds: int) -> SpillFigures:
    """Serve the load once for each seed."""
    found = SpillFigures([], [], [], [])
    for seed in range(seeds):
        cluster = StepCluster(CHOOSERS[rule](seed))
        served = cluster.serve(load.arrivals(seed))
        found.resident.append(statistics.mean(request.whole for request in served))
        found.wait.append(1e3 * statistics.mean((r.started or 0.0) - r.arrival.at for r in served))
        found.end_to_end.append(
            1e3 * statistics.mean((r.ended or 0.0) - r.arrival.at for r in served)
        )
        found.loads.append(cluster.loads)
    return found


def interval(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean."""
    if len(values) < 2:
        return math.inf
    return T_95 * statistics.stdev(values) / math.sqrt(len(values))


def rows(seeds: int) -> list[ResultRow]:
    """Return the rows of Braid's own pick."""
    found = []
    for number, load in enumerate(LOADS, start=1):
        figures = measure("pick", load, seeds)
        resident, wait = statistics.mean(figures.resident), statistics.mean(figures.wait)
        slower = statistics.mean(figures.end_to_end) / load.end_to_end_before - 1
        found.append(
            ResultRow(
                f"N0.{number}",
                f"{load.name}: resident share, wait for the first step, end to end",
                f"{load.resident_before:.3f}, {load.end_to_end_before:.0f} ms end to end",
                f">= {load.resident_demanded}, <= 20 ms, <= +2 %",
                f"{resident:.3f}, {wait:.1f} ms, {slower:+.1%}",
                f"{seeds} seeds; +- {interval(figures.resident):.4f}, "
                f"+- {interval(figures.wait):.1f} ms",
                round(resident, 3) >= load.resident_demanded and wait <= 20 and slower <= 0.02,
            )
        )
    return found


def main() -> None:
    """Print every rule's figures, then the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    for load in LOADS:
        for rule in CHOOSERS:
            found = measure(rule, load, options.seeds)
            print(
                f"{load.name}; {rule}: resident {statistics.mean(found.resident):.3f} +- "
                f"{interval(found.resident):.3f}, wait {statistics.mean(found.wait):.1f} ms, "
                f"end to end {statistics.mean(found.end_to_end):.1f} ms, "
                f"loads {statistics.mean(found.loads):.0f}",
                flush=True,
            )
    for row in rows(options.seeds):
        print(f"{row.name}: {row.after} ({row.demanded}; before {row.before}); {row.interval}")


if __name__ == "__main__":
    main()
