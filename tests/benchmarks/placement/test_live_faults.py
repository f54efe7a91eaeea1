"""What the live faults are judged by."""

import math
from collections import Counter

import pytest

from benchmarks.placement.live.fault_report import HANGS, STILL_HANGS, CountSample, FaultLog, report
from benchmarks.placement.live.live_faults import options_of
from benchmarks.placement.live.sole_copies import ReadyLook, copies_lost
from benchmarks.placement.live.steady_load import SteadyOutcome, SteadyPhase

BEFORE = ReadyLook(
    100.0,
    {"r0": frozenset({"a", "b", "c"}), "r1": frozenset({"c"}), "r2": frozenset()},
)


def prefetch(at: float, digest: str, replica: str) -> dict[str, object]:
    return {"at": at, "kind": "prefetch", "digest": digest, "replica_id": replica}


def test_the_last_of_the_sole_copies_counts() -> None:
    looks = [
        ReadyLook(101.5, {"r0": frozenset({"a", "b"}), "r1": frozenset({"c"}), "r2": frozenset()}),
        ReadyLook(102.5, {"r1": frozenset({"c", "a"}), "r2": frozenset()}),
        ReadyLook(104.0, {"r1": frozenset({"c", "a"}), "r2": frozenset({"b"})}),
    ]
    history = [
        prefetch(99.0, "b", "r2"),  # before it
        prefetch(101.8, "b", "r0"),
        prefetch(102.0, "a", "r1"),
        prefetch(103.0, "b", "r2"),
    ]
    lost = copies_lost("r0", 101.0, BEFORE, looks, history)
    assert (lost.copies, lost.told_s, lost.serving_s) == (2, 2.0, 3.0)


def test_what_demand_brings_in_first_needs_no_word() -> None:
    looks = [ReadyLook(101.4, {"r1": frozenset({"a", "b"})})]
    lost = copies_lost("r0", 101.0, BEFORE, looks, [])
    assert (lost.told_s, lost.serving_s) == (pytest.approx(0.4), pytest.approx(0.4))


def test_what_never_comes_back_meets_no_demand() -> None:
    lost = copies_lost("r0", 101.0, BEFORE, [ReadyLook(102.0, {"r1": frozenset({"a"})})], [])
    assert math.isnan(lost.serving_s)
    assert math.isnan(copies_lost("r2", 101.0, BEFORE, [], []).told_s)


def log_of(*, wanted: int = 3, wish: int = 1, wait: float = 0.2, late_picks: int = 0) -> FaultLog:
    outcomes = Counter({SteadyOutcome.SAME: 2})
    phases = [
        SteadyPhase(HANGS, 5.0, outcomes, Counter({"r0": 1, "r1": 1}), [wait], [0.1]),
        SteadyPhase(STILL_HANGS, 55.0, outcomes, Counter({"r0": late_picks}), [0.1], [wait]),
    ]
    return FaultLog(phases, [CountSample(1.0, 3, wanted, wish)], {"r0": "A", "r1": "B"})


@pytest.mark.parametrize(
    "log",
    [log_of(wanted=2), log_of(wish=3), log_of(wait=18.2), log_of(late_picks=1)],
    ids=["count", "a load that keeps the count by itself", "wait", "picks"],
)
def test_each_demand_can_fail(log: FaultLog) -> None:
    options = options_of([])
    assert report(options, "tiny", log_of(), []).holds
    assert not report(options, "tiny", log, []).holds
