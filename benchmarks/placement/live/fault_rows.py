"""Makes the rows of the table from what was seen while parts of a live cluster broke."""

import math

from benchmarks.adapters.result import ProofResult
from benchmarks.placement.live.fault_report import FIRST_S, HANG_S, REPLICAS, RESCUED_S, FaultLog
from benchmarks.placement.live.sole_copies import CopiesLost
from benchmarks.placement.row import ResultRow

TOLD_KILLED_S, TOLD_HUNG_S, SERVING_S = 2.0, 5.0, 10.0
BEFORE = (
    "with a hang of 20 s and policy min 3: 0 of 232 failed; longest wait for a first token 18.2 s, "
    "until the replica was continued"
)
"""Figures of the last run before fronts gave up the links of replicas that are silent."""
BEFORE_LOST = "16 s"
"""Until a lost replica's adapters were planned elsewhere, when silence alone was looked at."""


def rows_of(result: ProofResult, log: FaultLog) -> list[ResultRow]:
    """Return the rows; what was not measured meets no demand."""
    return [
        ResultRow(
            name="faults",
            what=(
                f"live, 3 replicas, policy min 1: one hangs for {HANG_S:g} s, one is killed, the "
                "controller is killed twice; requests that failed or got other tokens, waits and "
                "pauses, and the count"
            ),
            before=BEFORE,
            demanded=(
                f"0 failed; waits and pauses <= {RESCUED_S:g} s; 0 sent to the hung replica after "
                f"{FIRST_S:g} s; wanted replicas never below {REPLICAS}, where the load asks for "
                "2 or fewer"
            ),
            after=(
                f"{log.lost} of {result.setup['requests']} failed; longest wait for a first token "
                f"{_figure(log.longest_wait, ' s')}, longest pause within an answer "
                f"{_figure(log.longest_pause, ' s')}; {log.sent_to_hung} sent to the hung replica "
                f"after {FIRST_S:g} s; least wanted {_figure(log.least_wanted)}, where the load "
                f"asks for {_figure(log.least_wish)}"
            ),
            interval="one run",
            met=result.holds,
        ),
        _lost_row("killed", log.killed, TOLD_KILLED_S),
        _lost_row("hung", log.hung, TOLD_HUNG_S),
    ]


def _lost_row(how: str, lost: CopiesLost | None, told_s: float) -> ResultRow:
    return ResultRow(
        name=f"N8-live-{how}",
        what=f"live, 3 replicas under load: one is {how}; the last of what it alone had",
        before=BEFORE_LOST,
        demanded=f"told elsewhere <= {told_s:g} s, ready there <= {SERVING_S:g} s",
        after="not measured" if lost is None else lost.words,
        interval="one run",
        met=lost is not None and lost.told_s <= told_s and lost.serving_s <= SERVING_S,
    )


def _figure(value: float, unit: str = "") -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g}{unit}"
