"""Compares rules of picking where requests might leave replicas with free places.

python -m benchmarks.placement.picking.spill --seeds 10

Nothing is placed: only picks and the pools' own eviction are at work. Every step is simulated. It
takes 22 ms and 1 ms for each sequence, a load .35 s.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import measure_columns
from cluster.domain.ids import ReplicaId
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.replica_view import ReplicaView
from cluster.placement.policy import ClusterPolicy
from cluster.placement.rendezvous import mixture_key, weight
from cluster.simulation.baselines.baseline_names import BASELINES, with_picker, without_placement
from cluster.simulation.baselines.open_replicas import candidates
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.report.statistics import Interval, interval
from cluster.simulation.report.trials import SpecChange
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import ReplicaEngine, ReplicaSpec, SimulationSpec

SEEDS = 10
REPLICAS, SLOTS = 3, 8
MODEL = CostModel(
    step=StepCost(0.022, 0.001, 0.001, 0.0, 0.0, 0.0),
    host_load=LoadCost(0.35, 0.0),
    disk_load=LoadCost(0.35, 0.0),
)
"""A load takes as long from wherever; the only token of a prompt costs as much as a sequence."""
WARM_S = 60.0
"""Requests before this time only fill the pools."""
MOST_WAIT_S = 0.020
MOST_SLOWER = 0.02


@dataclass(frozen=True, slots=True)
class SpillLoad:
    """One load, with what the earlier code's picker was measured to do on its like."""

    name: str
    trace: str
    resident_before: float
    resident_demanded: float


LOADS = (
    SpillLoad(
        "6 hot of 30 adapters, others each 60 s",
        "moving-hot-set,duration=600,rate=6,adapters=30,hot=6,move=60,prompt=1,answer=24",
        0.915,
        0.945,
    ),
    SpillLoad(
        f"12 pairs over {REPLICAS} x {SLOTS} slots",
        "pairs,duration=400,rate=6,count=12,prompt=1,answer=24",
        0.947,
        0.995,
    ),
)


class CountBoundPick:
    """Picks the replica with most of a set, of those that have not many more requests than others.

    With n replicas and L requests one more may go where the load stays within
    ``ceil(1.25 * (L + 1) / n) + slack``, as in the earlier picker, whose slack was 1. Without a
    bound this is a picker that never leaves a replica for its load.
    """

    BOUND = 1.25

    def __init__(self, front: int, seed: int, slack: float) -> None:
        del front, seed  # every front ranks replicas alike
        self._slack = slack

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the best replica within the bound."""
        replicas = candidates(view, request, now)
        if not replicas:
            return None
        total = sum(replica.load for replica in replicas)
        limit = math.ceil(self.BOUND * (total + 1) / len(replicas)) + self._slack
        within = [replica for replica in replicas if replica.load + 1 <= limit] or replicas
        key = mixture_key(request.digests)

        def worth(replica: ReplicaView) -> tuple[int, bool, int, float]:
            there = replica.held.keys() | replica.incoming.keys()
            missing = sum(digest not in there for digest in request.digests)
            fits = replica.free_slots - len(replica.incoming.keys() - replica.held.keys())
            return -missing, fits >= missing, -replica.load, weight(key, replica.replica_id)

        return max(within, key=worth).replica_id


@dataclass(frozen=True, slots=True)
class SpillFigures:
    """Means over the requests after ``WARM_S`` of one run; times are in seconds."""

    resident: float  # share of requests that found their whole set on the device
    wait: float  # from arrival to the first step
    ttft: float
    e2e: float
    loads: int  # of the whole run


def spill_figures(result: SimulationResult) -> SpillFigures:
    """Read the figures of one run.

    Raises:
        ValueError: a request was not answered, so means over the others would say nothing.
    """
    waits, ttft, e2e, whole = [], [], [], []
    for one in result.requests:
        if one.asked.at < WARM_S:
            continue
        if one.queued is None or one.queued_at is None or one.ttft is None or one.e2e is None:
            raise ValueError(f"a request at {one.asked.at:.1f} s has no answer: {one.outcome}")
        waits.append(one.queued_at + one.queued - one.asked.at)
        ttft.append(one.ttft)
        e2e.append(one.e2e)
        whole.append(one.tier_found == "device")
    return SpillFigures(
        statistics.fmean(whole),
        statistics.fmean(waits),
        statistics.fmean(ttft),
        statistics.fmean(e2e),
        result.tiers.loads_from_host + result.tiers.loads_from_disk,
    )


def _bounded(spec: SimulationSpec, slack: float) -> SimulationSpec:
    return with_picker(spec, partial(CountBoundPick, slack=slack))


RULES: dict[str, SpecChange] = {
    "pick": without_placement,
    "bound by counts": partial(_bounded, slack=1.0),
    "unlimited": partial(_bounded, slack=math.inf),
    "least loaded": BASELINES["least-loaded"].change,
}


def rows(seeds: int = SEEDS) -> list[ResultRow]:
    """Return a row of Braid's own pick for each load, next to other rules."""
    return [_row(f"N0.{number}", load, seeds) for number, load in enumerate(LOADS, start=1)]


def measure(load: SpillLoad, seeds: int) -> dict[str, list[SpillFigures]]:
    """Serve the load by each rule, once for each seed."""
    recipe = spill_recipe(load.trace, "exact")
    found = measure_columns(recipe, tuple(RULES.values()), seeds, spill_figures, "N0")
    return dict(zip(RULES, found, strict=True))


def spill_recipe(trace: str, engine: ReplicaEngine) -> RunRecipe:
    """Return the cluster of all loads under the trace of this name."""
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(REPLICAS),
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        model=MODEL,
        replicas=REPLICAS,
        engine=engine,
    )
    return RunRecipe(base, NamedSource(trace))


def _row(name: str, load: SpillLoad, seeds: int) -> ResultRow:
    by_rule = measure(load, seeds)
    ours, earlier = by_rule["pick"], by_rule["bound by counts"]
    slower = {rule: _slower(ours, by_rule[rule]) for rule in ("unlimited", "bound by counts")}
    others = "; ".join(
        f"{rule}: {_words(figures)}" for rule, figures in by_rule.items() if rule != "pick"
    )
    gains = (
        _gain([one.resident for one in ours], [one.resident for one in earlier]),
        _gain([one.wait for one in earlier], [one.wait for one in ours]),
    )
    return ResultRow(
        name,
        f"{load.name}, nothing placed, simulated step by step, after {WARM_S:.0f} s: share found "
        "whole on the device, wait from arrival to the first step, TTFT, end to end, loads; "
        "before: the earlier pick's bound by counts, on the same requests in the same simulator. "
        f"The bounds were set where that pick had {load.resident_before:.3f} and 28 ms, in an "
        "earlier simulator whose steps all took the same time",
        _words(earlier),
        f">= {load.resident_demanded}, <= {1e3 * MOST_WAIT_S:.0f} ms, "
        f"end to end <= +{100 * MOST_SLOWER:.0f} % of a pick that never leaves a replica for its "
        "load (unlimited); share and wait surely better than before",
        f"{_words(ours)}; end to end {slower['bound by counts']:+.1%} of before, "
        f"{slower['unlimited']:+.1%} of unlimited",
        f"{seeds} seeds, 95 %, paired with before: share +{_words_of(gains[0], 100)} points, wait "
        f"-{_words_of(gains[1], 1e3)} ms; {others}",
        meets(load, ours, earlier, slower["unlimited"]),
    )


def meets(
    load: SpillLoad,
    ours: Sequence[SpillFigures],
    earlier: Sequence[SpillFigures],
    slower: float,
) -> bool:
    """Report whether the pick meets the load's bounds, and surely beats the earlier one.

    Args:
        slower: end to end, of a pick that never leaves a replica for its load.
    """
    resident = statistics.fmean(one.resident for one in ours)
    return (
        round(resident, 3) >= load.resident_demanded
        and statistics.fmean(one.wait for one in ours) <= MOST_WAIT_S
        and slower <= MOST_SLOWER
        and _is_sure(_gain([one.resident for one in ours], [one.resident for one in earlier]))
        and _is_sure(_gain([one.wait for one in earlier], [one.wait for one in ours]))
    )


def _gain(more: Sequence[float], less: Sequence[float]) -> Interval:
    return interval([one - other for one, other in zip(more, less, strict=True)])


def _is_sure(gain: Interval) -> bool:
    return gain.low is not None and gain.low > 0


def _words_of(gain: Interval, unit: float) -> str:
    return f"{unit * gain.mean:.1f} ± {unit * (gain.half or 0.0):.1f}"


def _slower(ours: Sequence[SpillFigures], others: Sequence[SpillFigures]) -> float:
    return statistics.fmean(o.e2e / t.e2e for o, t in zip(ours, others, strict=True)) - 1


def _words(found: Sequence[SpillFigures]) -> str:
    return (
        f"{statistics.fmean(one.resident for one in found):.3f}, "
        f"{1e3 * statistics.fmean(one.wait for one in found):.1f} ms, "
        f"{1e3 * statistics.fmean(one.ttft for one in found):.0f} ms, "
        f"{1e3 * statistics.fmean(one.e2e for one in found):.0f} ms, "
        f"{statistics.fmean(one.loads for one in found):.0f} loads"
    )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    for row in rows(options.seeds):
        print(f"{row.name}: {row.after} ({row.demanded}; before {row.before}); {row.interval}")


if __name__ == "__main__":
    main()
