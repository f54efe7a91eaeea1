"""Requests that ran at the same moments on the same replica."""

import pytest

from benchmarks.adapters.skew import met
from testing.timed_request import Reply


def reply(replica: str, sent: float, first: float, ended: float) -> Reply:
    return Reply(sent, replica=replica, arrivals=[first], ended=ended)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (reply("r0", 0.0, 1.0, 9.0), True),
        (reply("r0", 2.5, 2.6, 2.7), True),
        (reply("r1", 0.0, 1.0, 9.0), False),
        (reply("r0", 0.0, 0.5, 1.9), False),  # over before
        (reply("r0", 3.1, 3.2, 9.0), False),  # after its first token
    ],
)
def test_who_shares_a_replica_before_the_first_token(other: Reply, shared: bool) -> None:
    assert met(reply("r0", 2.0, 3.0, 4.0), [other]) is shared


def test_an_answer_without_a_token_counts_until_its_end() -> None:
    failed = Reply(2.0, replica="r0", ended=4.0)
    assert met(failed, [reply("r0", 3.5, 3.6, 3.7)])
