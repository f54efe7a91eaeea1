"""Simulates hot pairs of adapters that change each minute, with placing and without: N18 simulated.

python -m benchmarks.placement N18s

The requests are those of the live row N18. A load takes .04 s from wherever, less than a prompt
waits at a replica that computes another one, so picks leave replicas that have the pair.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from benchmarks.adapters.result import percentile
from benchmarks.placement.planning.kept_sets import placed
from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import measure_columns
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.baselines.baseline_names import without_placement
from cluster.simulation.report.recipe import RunRecipe
from cluster.simulation.report.statistics import interval
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import ReplicaSpec, SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import ConstantRate
from cluster.simulation.traces.asking import AdapterAsk, AdapterNames
from cluster.simulation.traces.lengths import FixedLength
from cluster.simulation.traces.stream import TraceStream, generate
from cluster.tenancy.quickstart import DEMO_TENANTS

SEEDS = 10
REPLICAS, SLOTS = 3, 8
ADAPTERS = REPLICAS * SLOTS
SETTLED_S = 15.0
"""After each move; from then on requests must find their pairs."""
DEMANDED = 0.95
PROMPT, ANSWER = 24, 8
PAIRS, RATE, MOVE_S, MOVES = 4, 2.0, 60.0, 4
LEAD_S = 20.0
"""Before it, each adapter is asked for once."""
MODEL = CostModel(
    step=StepCost(0.056, 0.0043, 0.00916, 0.0, 1.4e-10, 0.0),
    host_load=LoadCost(0.04, 0.0),
    disk_load=LoadCost(0.04, 0.0),
)
"""Steps as recorded on two crowded cores (docs/results/cost-model.md)."""
CROWDING = 0.5


@dataclass(frozen=True)
class MovingPairs:
    """A few disjoint pairs of all adapters, evenly; every ``move_s`` all are drawn again."""

    total: int
    hot: int  # pairs
    move_s: float
    seed: int
    names: AdapterNames

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return one of the pairs that are hot now."""
        return self.names.asked(rng.choice(self.pairs(int(at // self.move_s))))

    def pairs(self, move: int) -> list[tuple[int, int]]:
        """Return the pairs that are hot after so many moves."""
        drawn = Random(f"{self.seed}/{move}").sample(range(self.total), 2 * self.hot)
        return list(itertools.pairwise(drawn))[::2]


def pair_requests(
    seed: int,
    *,
    pairs: int = PAIRS,
    rate: float = RATE,
    move_s: float = MOVE_S,
    moves: int = MOVES,
) -> Iterator[TraceRequest]:
    """Yield the requests for the pairs of a seed, by time."""
    asking = MovingPairs(ADAPTERS, pairs, move_s, seed, AdapterNames(len(DEMO_TENANTS)))
    stream = TraceStream(ConstantRate(rate), asking, FixedLength(PROMPT), FixedLength(ANSWER))
    return generate([stream], seed, moves * move_s)


@dataclass(frozen=True)
class PairsAfterAll:
    """Each adapter once, then the pairs."""

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        """Return the requests by time."""
        names = AdapterNames(len(DEMO_TENANTS))
        once = []
        for number in range(ADAPTERS):
            tenant, adapters = names.asked((number,))
            at = number * 0.9 * LEAD_S / ADAPTERS
            once.append(TraceRequest(at, tenant, adapters, PROMPT, ANSWER, ANSWER))
        return once + [replace(one, at=LEAD_S + one.at) for one in pair_requests(seed)]

    @property
    def words(self) -> str:
        """Return what is asked for."""
        return f"{PAIRS} pairs of {ADAPTERS} adapters, others each {MOVE_S:.0f} s"


@dataclass(frozen=True, slots=True)
class PairFigures:
    """The figures of one run; times are in seconds."""

    whole: tuple[float, ...]  # by move: share of requests after ``SETTLED_S`` that found their pair
    at_once: float  # the same share within ``SETTLED_S`` of the moves
    ttft: float  # mean
    late: float  # TTFT p99
    loads: int  # after ``LEAD_S``


def pair_figures(result: SimulationResult) -> PairFigures:
    """Read the figures of one run."""
    moves: dict[int, list[bool]] = {}
    first: list[bool] = []
    ttft = []
    for one in result.requests:
        at = one.asked.at - LEAD_S
        if at >= 0.0 and one.ttft is not None:
            found = moves.setdefault(int(at // MOVE_S), []) if at % MOVE_S >= SETTLED_S else first
            found.append(one.tier_found == "device")
            ttft.append(one.ttft)
    return PairFigures(
        tuple(statistics.fmean(found) for _, found in sorted(moves.items())),
        statistics.fmean(first),
        statistics.fmean(ttft),
        percentile(ttft, 0.99),
        result.tiers.loads_from_host + result.tiers.loads_from_disk - ADAPTERS,
    )


def recipe() -> RunRecipe:
    """Return the cluster under the requests."""
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(REPLICAS),
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        model=MODEL,
        crowding=CROWDING,
        replicas=REPLICAS,
        engine="exact",
    )
    return RunRecipe(base, PairsAfterAll())


def rows(seeds: int = SEEDS) -> list[ResultRow]:
    """Return the row."""
    on, off = measure_columns(recipe(), (placed, without_placement), seeds, pair_figures, "N18s")
    return [row_of(on, off)]


def row_of(on: Sequence[PairFigures], off: Sequence[PairFigures]) -> ResultRow:
    """Return the row of all seeds."""
    later = interval([1e3 * (a.late - b.late) for a, b in zip(on, off, strict=True)])
    spread = "" if later.half is None else f" ± {later.half:.0f}"
    return ResultRow(
        "N18 simulated",
        f"as N18, simulated step by step, loads of {1e3 * MODEL.host_load.latency:.0f} ms: "
        f"requests that found their pair on the device, from {SETTLED_S:.0f} s after each move on",
        "-",
        f">= {DEMANDED:.0%}, loads not above off's, p99 not surely above off's",
        f"on: {_words(on)}; off: {_words(off)}",
        f"{len(on)} seeds, 95 %; p99 on {later.mean:+.0f}{spread} ms of off, seed by seed",
        _whole(on) >= DEMANDED
        and sum(one.loads for one in on) <= sum(one.loads for one in off)
        and not (later.excludes_zero and later.mean > 0),
    )


def _whole(column: Sequence[PairFigures]) -> float:
    return statistics.fmean(share for one in column for share in one.whole)


def _words(column: Sequence[PairFigures]) -> str:
    worst = min(share for one in column for share in one.whole)
    moves = sum(len(one.whole) for one in column)
    return (
        f"{_whole(column):.1%} ({worst:.1%} after the worst of {moves} moves; "
        f"{statistics.fmean(one.at_once for one in column):.1%} before), TTFT "
        f"{1e3 * statistics.fmean(one.ttft for one in column):.0f} ms, p99 "
        f"{1e3 * statistics.fmean(one.late for one in column):.0f} ms, "
        f"{statistics.fmean(one.loads for one in column):.0f} loads"
    )
