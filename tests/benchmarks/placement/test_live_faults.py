"""Judges made-up runs of the live faults: each demand can be met, and missed."""

import math
from collections import Counter
from pathlib import Path

import orjson
import pytest

from benchmarks.placement.live.fault_report import HANGS, STILL_HANGS, CountSample, FaultLog, report
from benchmarks.placement.live.fault_rows import rows_of
from benchmarks.placement.live.live_faults import options_of, requests_leaving
from benchmarks.placement.live.sole_copies import CopiesLost, ReadyLook, copies_lost
from benchmarks.placement.live.steady_load import SteadyOutcome, SteadyPhase
from benchmarks.placement.row import ResultRow

LOST = CopiesLost(2, 1.5, 2.5)
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


def test_the_replica_with_most_to_lose_has_most_that_no_other_has() -> None:
    assert {replica: BEFORE.alone_on(replica) for replica in ("r0", "r1", "r2", "unknown")} == {
        "r0": {"a", "b"},
        "r1": frozenset(),
        "r2": frozenset(),
        "unknown": frozenset(),
    }


@pytest.mark.parametrize("adapters", ["12", "17"])
def test_the_load_is_one_with_which_a_replica_has_adapters_alone(
    adapters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options_of(["--adapters", adapters])
    assert f"--adapters: {adapters}; expected 13 to 16 with 8 slots" in capsys.readouterr().err


def test_the_log_tells_which_requests_were_taken_away(tmp_path: Path) -> None:
    older, newer = tmp_path / "braid.log.1", tmp_path / "braid.log"
    older.write_bytes(failover("x", "r0") + b"Ray's words: {'front.failover'}\n")
    newer.write_bytes(failover("y", "r1") + failover("z", "r0") + b'{"event":"request"}\n')
    assert requests_leaving([older, newer], "r0") == {"x", "z"}


def failover(request: str, lost: str) -> bytes:
    line = {"event": "front.failover", "request": request, "lost": lost, "tokens": 0}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def log_of(
    *,
    wanted: int = 3,
    wish: int | None = 1,
    wait: float = 0.2,
    late_picks: int = 0,
    taken_away: frozenset[str] = frozenset({"early"}),
    lost: CopiesLost | None = LOST,
) -> FaultLog:
    outcomes = Counter({SteadyOutcome.SAME: 2})
    early, late = {"early"}, {"late", "later"}
    phases = [
        SteadyPhase(HANGS, 5.0, outcomes, early, Counter({"r0": 1, "r1": 1}), [wait], [0.1]),
        SteadyPhase(STILL_HANGS, 55.0, outcomes, late, Counter({"r0": late_picks}), [0.1], [wait]),
    ]
    samples = [CountSample(1.0, 3, wanted, wish)]
    return FaultLog(phases, samples, {"r0": "A", "r1": "B"}, taken_away, lost, LOST)


@pytest.mark.parametrize(
    "log",
    [
        log_of(wanted=2),
        log_of(wish=3),
        log_of(wish=None),
        log_of(wait=18.2),
        log_of(late_picks=1),
        log_of(taken_away=frozenset({"late"})),
    ],
    ids=["count", "a load that keeps the count by itself", "no word", "wait", "answered", "sent"],
)
def test_each_demand_can_fail(log: FaultLog) -> None:
    options = options_of([])
    assert report(options, "tiny", log_of(), []).holds
    assert not report(options, "tiny", log, []).holds


def rows(log: FaultLog) -> list[ResultRow]:
    return rows_of(report(options_of([]), "tiny", log, []), log)


def test_rows_are_met_only_by_what_was_measured() -> None:
    assert [row.met for row in rows(log_of())] == [True, True, True]
    assert rows(log_of())[2].after == "told after 1.50 s, ready after 2.50 s (adapters: 2)"


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (None, "not measured"),
        (CopiesLost(0, math.nan, math.nan), "not measured: it had no adapter alone"),
        (CopiesLost(1, math.nan, math.nan), "never told, never ready (adapters: 1)"),
        (CopiesLost(1, 1.0, math.nan), "told after 1.00 s, never ready (adapters: 1)"),
        (CopiesLost(1, 6.0, 7.0), "told after 6.00 s, ready after 7.00 s (adapters: 1)"),
    ],
)
def test_what_was_not_measured_or_late_fails_in_words(lost: CopiesLost | None, words: str) -> None:
    *_, hung = rows(log_of(lost=lost))
    assert (hung.name, hung.after, hung.met) == ("N8-live-hung", words, False)


def test_a_run_that_saw_nothing_says_so_and_fails() -> None:
    found = rows(FaultLog(names={"r0": "A"}))
    assert [row.met for row in found] == [False, False, False]
    assert all("not measured" in row.after and "nan" not in row.after for row in found)
