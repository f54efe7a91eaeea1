"""Measures a live cluster whose hot pairs of adapters change each minute (row N18).

As many adapters as there are slots, so what is asked for next is somewhere, but not together: the
partners are drawn again at each move.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters.base_models import QUICKSTART
from benchmarks.adapters.result import percentile
from benchmarks.placement.live.turns import Turn, TurnCluster, TurnRequest, TurnSetup
from benchmarks.placement.planning.moving_pairs import (
    ADAPTERS,
    DEMANDED,
    MOVE_S,
    MOVES,
    PAIRS,
    RATE,
    REPLICAS,
    SETTLED_S,
    SLOTS,
    pair_requests,
)
from benchmarks.placement.row import ResultRow
from benchmarks.shared.quiet import quiet
from cluster.simulation.trace import TraceRequest

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class MovingTurn:
    """The figures of one turn."""

    whole: tuple[float, ...]  # by move: share of requests after ``SETTLED_S`` that found their pair
    at_once: float  # the same share within ``SETTLED_S`` of the moves
    late: float  # TTFT p99, seconds
    requests: int
    failed: int
    loads: int


def moving_turn(turn: Turn, move_s: float) -> MovingTurn:
    """Read the figures of a turn."""
    moves: dict[int, list[bool]] = {}
    first: list[bool] = []
    for one in turn.requests:
        is_settled = one.at % move_s >= SETTLED_S
        found = moves.setdefault(int(one.at // move_s), []) if is_settled else first
        found.append(_is_whole(one))
    ttft = [one.served.ttft for one in turn.requests if one.served.ttft is not None]
    return MovingTurn(
        tuple(statistics.fmean(found) for _, found in sorted(moves.items())),
        statistics.fmean(first),
        percentile(ttft, 0.99),
        len(turn.requests),
        turn.failed,
        turn.loads,
    )


def _is_whole(one: TurnRequest) -> bool:
    return one.served.tier_found == "device"


def row_of(on: Sequence[MovingTurn], off: Sequence[MovingTurn], move_s: float) -> ResultRow:
    """Return the row of all turns."""
    failed = sum(turn.failed for turn in (*on, *off))
    late = [[turn.late for turn in mode] for mode in (on, off)]
    spread = max(max(times) - min(times) for times in late)
    later = statistics.median(late[0]) - statistics.median(late[1])
    return ResultRow(
        name="N18",
        what=(
            f"live, {REPLICAS} replicas of {SLOTS} slots, {ADAPTERS} adapters, the hot pairs are "
            f"drawn again each {move_s:.0f} s, placement on and off in turns: requests that found "
            f"their pair on the device, from {SETTLED_S:.0f} s after each move on; TTFT p99"
        ),
        before="-",
        demanded=(
            f">= {DEMANDED:.0%} after each move; p99 on not above off by more than the rounds' "
            "range; none fails"
        ),
        after=f"on: {_words(on)}; off: {_words(off)}; {failed} failed",
        interval=(
            f"{len(on)} rounds of each, medians and range; p99 on {1e3 * later:+.0f} ms of off, "
            f"the wider range is {1e3 * spread:.0f} ms"
        ),
        met=(
            min(share for turn in on for share in turn.whole) >= DEMANDED
            and later <= spread
            and failed == 0
        ),
    )


def _words(turns: Sequence[MovingTurn]) -> str:
    whole = [share for turn in turns for share in turn.whole]
    late = sorted(1e3 * turn.late for turn in turns)
    return (
        f"{statistics.fmean(whole):.1%} of those ({min(whole):.1%} after the worst of {len(whole)} "
        f"moves; {statistics.fmean(turn.at_once for turn in turns):.1%} before), p99 "
        f"{statistics.median(late):.0f} ms ({late[0]:.0f} to {late[-1]:.0f}), "
        f"{statistics.fmean(turn.loads for turn in turns):.0f} loads a turn"
    )


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.live.moving_set", description=__doc__
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--moves", type=int, default=MOVES, help="of each turn")
    parser.add_argument("--move-s", type=float, default=MOVE_S, help="seconds between moves")
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="that are hot at a time")
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    options = parser.parse_args(arguments)
    if options.move_s <= SETTLED_S:
        parser.error(f"--move-s: {options.move_s:g}; expected above {SETTLED_S:g}")
    return options


def requests_of(options: argparse.Namespace) -> Iterator[list[TraceRequest]]:
    """Yield the requests of each round; both of its turns serve them."""
    for seed in range(options.rounds):
        yield list(
            pair_requests(
                seed,
                pairs=options.pairs,
                rate=options.rate,
                move_s=options.move_s,
                moves=options.moves,
            )
        )


def rows(seeds: int = ROUNDS, arguments: Sequence[str] = ()) -> list[ResultRow]:
    """Run it and return its row of the table; each round has requests of a seed of its own."""
    return [measure(options_of(("--rounds", str(seeds), *arguments)))]


def measure(options: argparse.Namespace) -> ResultRow:
    """Start a cluster, serve all rounds in both modes, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-moving-set-"))
    setup = TurnSetup(options.base, ADAPTERS, REPLICAS, SLOTS, host_mib=512)
    with quiet(), TurnCluster.running(folder, setup) as cluster:
        turns = cluster.take_turns(list(requests_of(options)))
    figures = {
        mode: [moving_turn(turn, options.move_s) for turn in turns if turn.mode == mode]
        for mode in ("on", "off")
    }
    return row_of(figures["on"], figures["off"], options.move_s)


if __name__ == "__main__":
    print(measure(options_of()))
