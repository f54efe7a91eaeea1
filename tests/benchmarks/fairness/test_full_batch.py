"""Throughput with single requests, of that without, in neighbouring windows."""

import pytest

from benchmarks.fairness.full_batch import kept_in_turns
from testing.timed_request import Reply


def test_a_window_is_compared_with_the_one_before() -> None:
    slower = [0.1 * n for n in range(100)] + [10.0 + 0.125 * n for n in range(80)]
    replies = [Reply(0.0, arrivals=slower, ended=20.0) for _ in range(2)]
    kept = kept_in_turns(replies, [(0.0, 10.0, 20.0), (0.0, 5.0, 10.0)], 2, len(slower))
    assert kept == pytest.approx([0.8, 1.0])


def test_windows_with_a_free_row_do_not_count() -> None:
    replies = [Reply(0.0, arrivals=[1.0, 5.0, 15.0], ended=end) for end in (16.0, 25.0, 26.0)]
    assert kept_in_turns(replies, [(0.0, 10.0, 20.0)], 3, 3) == []
    assert kept_in_turns(replies, [(0.0, 10.0, 20.0)], 2, 3) == pytest.approx([0.5])
