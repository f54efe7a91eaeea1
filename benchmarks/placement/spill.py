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
from cluster.simulation.report.statistics import interval as statistics_interval

SEEDS = 10


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

    @property
    def words(self) -> str:
        """Return all figures."""
        return (
            f"{statistics.mean(self.resident):.3f}, {statistics.mean(self.wait):.1f} ms, "
            f"{statistics.mean(self.end_to_end):.0f} ms, {statistics.mean(self.loads):.0f} loads"
        )


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
    half = statistics_interval(values).half
    return math.inf if half is None else half


def rows(seeds: int = SEEDS) -> list[ResultRow]:
    """Return a row of Braid's own pick for each load, next to the rules that know less."""
    found = []
    for number, load in enumerate(LOADS, start=1):
        by_rule = {rule: measure(rule, load, seeds) for rule in CHOOSERS}
        ours = by_rule.pop("pick")
        resident, wait = statistics.mean(ours.resident), statistics.mean(ours.wait)
        slower = statistics.mean(ours.end_to_end) / load.end_to_end_before - 1
        others = "; ".join(f"{rule}: {figures.words}" for rule, figures in by_rule.items())
        found.append(
            ResultRow(
                f"N0.{number}",
                f"{load.name}, nothing placed: share found whole on the device, wait for the first "
                "step, end to end, loads; snapshots are heard at once; before: the earlier pick on "
                "the same load",
                f"{load.resident_before:.3f}, {load.end_to_end_before:.0f} ms end to end",
                f">= {load.resident_demanded}, <= 20 ms, end to end <= +2 %",
                f"{ours.words} ({slower:+.1%})",
                f"{seeds} seeds, 95 %: ± {interval(ours.resident):.4f}, "
                f"± {interval(ours.wait):.1f} ms, ± {interval(ours.end_to_end):.0f} ms; {others}",
                round(resident, 3) >= load.resident_demanded and wait <= 20 and slower <= 0.02,
            )
        )
    return found


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    for row in rows(options.seeds):
        print(f"{row.name}: {row.after} ({row.demanded}; before {row.before}); {row.interval}")


if __name__ == "__main__":
    main()
