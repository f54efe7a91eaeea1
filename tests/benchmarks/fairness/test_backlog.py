"""Ratios of tokens against those of weights."""

from typing import Any

import pytest

from benchmarks.fairness.backlog import SETTLED_S, Backlog, judge_backlog
from benchmarks.fairness.tenant_load import TenantLoad
from testing.timed_request import Reply

SWAPPED, END = 100.0, 100.0 + SETTLED_S + 100.0


def served_evenly(before: int, after: int) -> TenantLoad:
    """Return a load with so many answers of one token in each of the two spans that count."""
    client: Any = None
    load = TenantLoad(client, "a", 1, [])
    for begin, count in ((0.0, before), (SWAPPED + SETTLED_S, after)):
        moments = (begin + 100.0 * number / count for number in range(count))
        load.replies += [Reply(begin, arrivals=[at]) for at in moments]
    return load


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        ((300, 100), (100, 300), [True, True]),
        ((330, 100), (100, 300), [False, True]),
        ((300, 110), (100, 300), [True, False]),
        ((300, 300), (100, 100), [True, False]),
        ((300, 100), (100, 1), [True, False]),
    ],
)
def test_each_span_must_follow_its_weights(
    first: tuple[int, int], second: tuple[int, int], holds: list[bool]
) -> None:
    loads = served_evenly(*first), served_evenly(*second)
    found = Backlog(*loads, 1, 0.0, SWAPPED, END)
    assert [verdict.holds for verdict in judge_backlog(found)] == holds
