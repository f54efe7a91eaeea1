"""Starts of replicas: how long they take, and how long one has been starting."""

from cluster.placement.control.starts import Starts


def test_starts_that_follow_each_other_are_not_one_long_start() -> None:
    """A replica is asked for every 10 s, and each starts in 30 s: none is ever late."""
    starts = Starts()
    starts.observe(1, 0, 0.0)
    ages = []
    for second in range(10, 200, 10):
        if second > 30:
            assert starts.joined(float(second)) == 30.0
        starts.observe(1 + second // 10, 3, float(second))
        ages.append(starts.age(float(second)))
    assert ages == [0.0, 10.0] + [20.0] * 17


def test_a_replacement_that_nobody_asked_for_starts_too() -> None:
    starts = Starts()
    starts.observe(2, 0, 0.0)
    starts.observe(2, 1, 5.0)
    assert starts.age(12.0) == 7.0
    starts.observe(2, 0, 13.0)
    assert starts.age(13.0) is None
