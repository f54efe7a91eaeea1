"""Measures a live cluster with twice as many adapters as slots, asked for by rates that last (N19).

Host memory holds few of them, so a request whose adapters are not on the device waits for the disk.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters.base_models import QUICKSTART
from benchmarks.placement.live.turns import Turn, TurnCluster, TurnSetup
from benchmarks.placement.row import ResultRow
from benchmarks.shared.quiet import quiet
from cluster.simulation.report.statistics import Interval, interval
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.set_traces import lasting
from cluster.tenancy.quickstart import DEMO_TENANTS

ROUNDS = 5
REPLICAS, SLOTS = 3, 8
ADAPTERS = 2 * REPLICAS * SLOTS
PAIRS = 0.5
"""Share of requests for two adapters."""
HOST_MIB = 32
"""Three of these adapters."""
MOST_LOADS = 0.92
"""Of those with placement off."""
PROMPT, ANSWER = 24, 8


@dataclass(frozen=True, slots=True)
class LastingTurn:
    """The figures of one turn; those of requests count from the settling time on."""

    cold: float  # share of requests that did not find all their adapters on the device
    ttft: float  # mean, seconds
    loads: int  # of the whole turn
    failed: int


def lasting_turn(turn: Turn, settle_s: float) -> LastingTurn:
    """Read the figures of a turn."""
    late = [one.served for one in turn.requests if one.at >= settle_s]
    return LastingTurn(
        statistics.fmean(served.tier_found != "device" for served in late),
        statistics.fmean(served.ttft for served in late if served.ttft is not None),
        turn.loads,
        turn.failed,
    )


def row_of(on: Sequence[LastingTurn], off: Sequence[LastingTurn]) -> ResultRow:
    """Return the row of all turns, by round."""
    fewer = sum(turn.loads for turn in on) / max(1, sum(turn.loads for turn in off))
    later = _more(on, off, lambda turn: 1e3 * turn.ttft)
    colder = _more(on, off, lambda turn: 100 * turn.cold)
    failed = sum(turn.failed for turn in (*on, *off))
    return ResultRow(
        name="N19",
        what=(
            f"live, {REPLICAS} replicas of {SLOTS} slots, {ADAPTERS} adapters by Zipf's law, half "
            f"of the requests ask for two, {HOST_MIB} MiB of host memory for adapters, placement "
            "on and off in turns: cold requests, mean TTFT, loads"
        ),
        before="-",
        demanded=f"loads <= {MOST_LOADS:g} of off, mean TTFT not surely above off's",
        after=f"on: {_words(on)}; off: {_words(off)}; loads {fewer:.2f} of off, {failed} failed",
        interval=(
            f"{len(on)} rounds of each, 95 %, on more than off, round by round: TTFT "
            f"{_signed(later, 'ms')}, cold {_signed(colder, 'points')}"
        ),
        met=fewer <= MOST_LOADS and not (later.excludes_zero and later.mean > 0),
    )


def _more(
    on: Sequence[LastingTurn], off: Sequence[LastingTurn], figure: Callable[[LastingTurn], float]
) -> Interval:
    """Return how much more a figure is with placement on, round by round."""
    return interval([figure(ours) - figure(theirs) for ours, theirs in zip(on, off, strict=True)])


def _signed(found: Interval, unit: str) -> str:
    spread = "" if found.half is None else f" ± {found.half:.1f}"
    return f"{found.mean:+.1f}{spread} {unit}"


def _words(turns: Sequence[LastingTurn]) -> str:
    ttft = sorted(1e3 * turn.ttft for turn in turns)
    return (
        f"{statistics.median(turn.cold for turn in turns):.1%} cold, "
        f"{statistics.median(ttft):.0f} ms ({ttft[0]:.0f} to {ttft[-1]:.0f}), "
        f"{statistics.median(turn.loads for turn in turns):.0f} loads"
    )


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.live.lasting_set", description=__doc__
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each turn")
    parser.add_argument(
        "--settle", type=float, default=60.0, help="seconds at a turn's start that only fill pools"
    )
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second")
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    options = parser.parse_args(arguments)
    if options.settle >= options.seconds:
        parser.error(f"--settle: {options.settle:g}; expected below --seconds {options.seconds:g}")
    return options


def requests_of(options: argparse.Namespace) -> Iterator[list[TraceRequest]]:
    """Yield the requests of each round; both of its turns serve them."""
    for seed in range(options.rounds):
        found = lasting(
            seed,
            options.seconds,
            rate=options.rate,
            adapters=ADAPTERS,
            tenants=len(DEMO_TENANTS),
            pairs=PAIRS,
            prompt=PROMPT,
            answer=ANSWER,
        )
        yield list(found)


def rows(seeds: int = ROUNDS, arguments: Sequence[str] = ()) -> list[ResultRow]:
    """Run it and return its row of the table; each round has requests of a seed of its own."""
    return [measure(options_of(("--rounds", str(seeds), *arguments)))]


def measure(options: argparse.Namespace) -> ResultRow:
    """Start a cluster, serve all rounds in both modes, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-lasting-set-"))
    setup = TurnSetup(options.base, ADAPTERS, REPLICAS, SLOTS, HOST_MIB)
    with quiet(), TurnCluster.running(folder, setup) as cluster:
        turns = cluster.take_turns(list(requests_of(options)))
    figures = {
        mode: [lasting_turn(turn, options.settle) for turn in turns if turn.mode == mode]
        for mode in ("on", "off")
    }
    return row_of(figures["on"], figures["off"])


if __name__ == "__main__":
    print(measure(options_of()))
