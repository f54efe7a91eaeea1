"""Requests of the proofs."""

from testing.timed_request import crowds


def test_more_come_where_few_went_the_same_way() -> None:
    sizes = list(crowds(2))
    assert sizes[:4] == [2, 2, 2, 4]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 16
