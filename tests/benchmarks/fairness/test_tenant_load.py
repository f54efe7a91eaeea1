"""Tokens of answers by the time at which they came."""

import pytest

from benchmarks.fairness.tenant_load import served_tokens
from testing.timed_request import Reply

REPLIES = (Reply(0.0, arrivals=[1.0, 2.0, 3.0, 4.0]), Reply(0.0, arrivals=[2.0, 6.0]), Reply(0.0))


@pytest.mark.parametrize(
    ("begin", "end", "tokens"),
    [(0.0, 9.0, 16.0), (1.0, 2.0, 2.0), (2.0, 4.0, 8.0), (5.0, 9.0, 4.0), (7.0, 9.0, 0.0)],
)
def test_an_event_counts_for_its_part_of_an_answer(begin: float, end: float, tokens: float) -> None:
    assert served_tokens(REPLIES, 8, begin, end) == tokens
