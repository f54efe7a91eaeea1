"""Live measurements in turns: who is asked for, and what a turn's figures say."""

import statistics

import pytest

from benchmarks.placement.live.lasting_set import LastingTurn, lasting_turn
from benchmarks.placement.live.lasting_set import options_of as lasting_options
from benchmarks.placement.live.lasting_set import requests_of as lasting_requests
from benchmarks.placement.live.lasting_set import row_of as lasting_row
from benchmarks.placement.live.moving_set import MovingTurn, moving_turn
from benchmarks.placement.live.moving_set import options_of as moving_options
from benchmarks.placement.live.moving_set import requests_of as moving_requests
from benchmarks.placement.live.moving_set import row_of as moving_row
from benchmarks.placement.live.turns import Turn, TurnRequest
from benchmarks.placement.planning.moving_pairs import ADAPTERS, MovingPairs
from cluster.simulation.trace import ServedFacts
from cluster.simulation.traces.asking import AdapterNames


def found(at: float, tier: str, ttft: float | None = 0.1) -> TurnRequest:
    return TurnRequest(at, ServedFacts("r0", tier, ttft, 0.5, "ok"))


def test_pairs_are_disjoint_and_drawn_anew_at_each_move() -> None:
    asking = MovingPairs(ADAPTERS, hot=4, move_s=60.0, seed=0, names=AdapterNames())
    first, second = asking.pairs(0), asking.pairs(1)
    assert len({adapter for pair in first for adapter in pair}) == 8
    assert first != second
    assert asking.pairs(0) == first


def test_a_round_asks_for_the_pairs_that_are_hot() -> None:
    options = moving_options(("--rounds", "2", "--moves", "2", "--pairs", "3"))
    rounds = list(moving_requests(options))
    assert len(rounds) == 2
    for requests in rounds:
        for move in range(2):
            asked = {r.adapters for r in requests if r.at // options.move_s == move}
            assert len(asked) == 3
    assert rounds[0] != rounds[1]


def test_half_of_the_lasting_requests_ask_for_two() -> None:
    (requests,) = lasting_requests(lasting_options(("--rounds", "1", "--seconds", "2000")))
    pairs = statistics.fmean(len(request.adapters) == 2 for request in requests)
    assert pairs == pytest.approx(0.5, abs=0.05)


def test_each_move_is_judged_after_its_settling_time() -> None:
    requests = (
        found(1.0, "disk"),
        found(20.0, "device"),
        found(50.0, "device", 0.3),
        found(61.0, "device"),
        found(80.0, "host", None),
        found(90.0, "device"),
    )
    turn = moving_turn(Turn("on", requests, failed=0, loads=3, loaded_mb=30.0), 60.0)
    assert turn.whole == (1.0, 0.5)
    assert (turn.at_once, turn.late, turn.requests) == (0.5, 0.3, 6)


def moving(whole: float, late: float, failed: int = 0) -> MovingTurn:
    return MovingTurn((1.0, whole), 0.8, late, 100, failed, 10)


def test_the_worst_move_the_wait_and_failures_decide() -> None:
    off = [moving(0.5, 0.30), moving(0.5, 0.34)]
    assert moving_row([moving(0.95, 0.33), moving(1.0, 0.36)], off, 60.0).met is True
    assert moving_row([moving(0.94, 0.33), moving(1.0, 0.36)], off, 60.0).met is False
    assert moving_row([moving(0.95, 0.43), moving(1.0, 0.46)], off, 60.0).met is False
    assert moving_row([moving(0.95, 0.33, failed=1), moving(1.0, 0.36)], off, 60.0).met is False


def test_requests_that_fill_the_pools_are_not_counted() -> None:
    requests = (found(1.0, "disk", 9.0), found(70.0, "device", 0.1), found(80.0, "loading", 0.3))
    turn = lasting_turn(Turn("off", requests, failed=0, loads=7, loaded_mb=70.0), 60.0)
    assert (turn.cold, turn.ttft, turn.loads) == (0.5, pytest.approx(0.2), 7)


def test_fewer_loads_are_demanded_and_no_longer_wait() -> None:
    off = [LastingTurn(0.4, ttft, 100, 0) for ttft in (0.30, 0.32, 0.31)]

    def on(ttft: float, loads: int) -> list[LastingTurn]:
        return [LastingTurn(0.4, ttft + turn.ttft, loads, 0) for turn in off]

    assert lasting_row(on(0.0, 92), off).met is True
    assert lasting_row(on(0.0, 93), off).met is False
    assert lasting_row(on(0.1, 92), off).met is False
    assert lasting_row(on(-0.1, 92), off).met is True
