"""Compares placing with not placing, and with other rules, where adapters come and go: N3 and N6.

python -m benchmarks.placement N3

Every step is simulated, replicas have the real pool, and picks are Braid's unless a column says
otherwise. A step takes 22 ms and 1 ms for each sequence, a load .35 s.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.placement.picking.spill import MODEL
from benchmarks.placement.row import ResultRow
from benchmarks.placement.simulation.simulated import measure_columns
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.report.recipe import NamedSource, RunRecipe, TraceSource
from cluster.simulation.report.statistics import Interval, interval
from cluster.simulation.report.trials import SpecChange
from cluster.simulation.result import SimulationResult
from cluster.simulation.spec import ReplicaSpec, SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import ConstantRate
from cluster.simulation.traces.asking import FixedSets
from cluster.simulation.traces.one_stream import one_stream
from cluster.simulation.traces.popularity import Popularity

SEEDS = 10
SLOTS = 8
WARM_S = 300.0
"""Requests before this time only fill the pools and the clocks."""


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Figures of one run, after ``WARM_S``."""

    resident: float  # share of requests that found their whole set on the device
    ttft: float  # mean, seconds
    loads: int  # of the whole run, those of the controller among them
    moves: int  # prefetches that the controller ordered


def set_figures(result: SimulationResult) -> SetFigures:
    """Read the figures of one run."""
    late = [one for one in result.requests if one.asked.at >= WARM_S and one.ttft is not None]
    return SetFigures(
        statistics.fmean(one.tier_found == "device" for one in late),
        statistics.fmean(one.ttft or 0.0 for one in late),
        result.tiers.loads_from_host + result.tiers.loads_from_disk,
        sum(move.kind == "prefetch" for move in result.moves),
    )


@dataclass(frozen=True)
class SinglesAndPairs:
    """Sixty adapters by Zipf's popularity, and twelve pairs of neighbours for a fifth of all."""

    rate: float = 10.0
    duration: float = 900.0
    adapters: int = 60
    pairs: int = 12
    share: float = 0.2

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        """Return the requests by time."""
        singles = [1.0 / rank for rank in range(1, self.adapters + 1)]
        pairs = [1.0 / rank for rank in range(1, self.pairs + 1)]
        weights = [(1.0 - self.share) * one / sum(singles) for one in singles]
        weights += [self.share * one / sum(pairs) for one in pairs]
        sets: list[tuple[int, ...]] = [(number,) for number in range(self.adapters)]
        sets += [(2 * number, 2 * number + 1) for number in range(self.pairs)]
        asking = FixedSets(tuple(sets), Popularity(weights))
        return list(
            one_stream(ConstantRate(self.rate), asking, seed, self.duration, prompt=1, answer=24)
        )

    @property
    def words(self) -> str:
        """Return the trace in words."""
        return (
            f"{self.rate:g}/s over {self.adapters} adapters and {self.pairs} pairs by Zipf's "
            "popularity"
        )


def placed(spec: SimulationSpec) -> SimulationSpec:
    """Leave everything to Braid."""
    return spec


COLUMNS: Mapping[str, SpecChange] = {
    "on": placed,
    **{
        name: BASELINES[name].change
        for name in ("off", "random", "least-loaded", "rendezvous", "slots")
    },
}


def recipe(source: TraceSource, replicas: int) -> RunRecipe:
    """Return a cluster under a trace."""
    base = SimulationSpec(
        trace=(),
        policy=ClusterPolicy.fixed(replicas),
        catalog=(),
        shape=ReplicaSpec(slots=SLOTS),
        model=MODEL,
        replicas=replicas,
        engine="fast",
    )
    return RunRecipe(base, source)


def measure(
    source: TraceSource, replicas: int, seeds: int, columns: Mapping[str, SpecChange] = COLUMNS
) -> dict[str, list[SetFigures]]:
    """Serve a trace by each column, once for each seed."""
    changes = tuple(columns.values())
    found = measure_columns(recipe(source, replicas), changes, seeds, set_figures, source.words)
    return dict(zip(columns, found, strict=True))


@dataclass(frozen=True, slots=True)
class KeptDemand:
    """One row: a trace, and what placing must be worth against not placing."""

    name: str
    words: str
    source: TraceSource
    replicas: int
    before: str
    gain: float  # of the resident share, least
    loads: float  # of those without placing, most
    baselines: float | None = None  # of the resident share above each other rule, least


LOADS = (
    *(
        KeptDemand(
            f"N3.{move}",
            f"6 hot of 30 adapters, others each {move} s, over 3 x {SLOTS} slots",
            NamedSource(
                f"moving-hot-set,duration=900,rate=6,adapters=30,hot=6,move={move},prompt=1,"
                "answer=24"
            ),
            3,
            before,
            -0.008 if move == 20 else -0.005,
            1.05,
        )
        for move, before in (
            (20, "on .914, off .937; 331 and 212 loads"),
            (60, "on .939, off .951; 272 and 183 loads"),
            (120, "on .947, off .951; 249 and 188 loads"),
        )
    ),
    KeptDemand(
        "N3a",
        f"lasting rates, over 4 x {SLOTS} slots",
        SinglesAndPairs(),
        4,
        "on .847, off .866; 236 and 197 loads",
        0.01,
        0.92,
    ),
    KeptDemand(
        "N6",
        f"24 pairs by Zipf's popularity over 3 x {SLOTS} slots, where half fit",
        NamedSource("pairs,duration=900,rate=6,count=24,s=1,prompt=1,answer=24"),
        3,
        "on .761, off .752; 522 and 509 loads",
        0.03,
        0.9,
        0.02,
    ),
)


def rows(seeds: int = SEEDS) -> list[ResultRow]:
    """Return a row for each load."""
    return [_row(load, seeds) for load in LOADS]


def _row(load: KeptDemand, seeds: int) -> ResultRow:
    found = measure(load.source, load.replicas, seeds)
    on, off = found["on"], found["off"]
    gain = interval([a.resident - b.resident for a, b in zip(on, off, strict=True)])
    loads = sum(one.loads for one in on) / sum(one.loads for one in off)
    met = gain.mean >= load.gain and loads <= load.loads
    if load.gain > 0.0:
        met = met and gain.mean - (gain.half or 0.0) > 0.0
    demanded = f">= off {load.gain:+.3f}, loads <= {load.loads:g} of off"
    if load.baselines is not None:
        best = max(_mean(found[name]).mean for name in found if name not in ("on", "off"))
        met = met and _mean(on).mean >= best + load.baselines
        demanded += f", >= each other rule + {load.baselines:g}"
    others = "; ".join(f"{name} {_words(column)}" for name, column in found.items())
    return ResultRow(
        load.name,
        f"{load.words}, real pools, simulated, after {WARM_S:.0f} s: share of requests that found "
        "their set whole on the device, with placing against without; loads of the whole run",
        load.before,
        demanded,
        f"off {gain.mean:+.4f}, loads {loads:.2f} of off",
        f"{seeds} seeds, 95 %: ± {gain.half or 0.0:.4f}; {others}",
        met,
    )


def _mean(column: Sequence[SetFigures]) -> Interval:
    return interval([one.resident for one in column])


def _words(column: Sequence[SetFigures]) -> str:
    ttft = statistics.fmean(one.ttft for one in column)
    loads = statistics.fmean(one.loads for one in column)
    moves = statistics.fmean(one.moves for one in column)
    ordered = f", {moves:.0f} of them ordered" if moves else ""
    return f"{_mean(column).mean:.4f}, TTFT {1e3 * ttft:.0f} ms, {loads:.0f} loads{ordered}"
