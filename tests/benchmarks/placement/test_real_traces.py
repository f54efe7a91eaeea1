"""A count that refuses requests does not win by the waits of those it answers."""

import pytest

from benchmarks.placement.simulation.real_traces import Hour, beats, chosen_rivals
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.statistics import interval
from cluster.simulation.report.table import Cell, Report, ReportRow

FIGURES = (
    Figure("all requests", "TTFT p99", "s"),
    Figure("replicas", "replica-hours", "h"),
    Figure("all requests", "refused or failed", "%"),
)


def cell(value: float, more: float | None) -> Cell:
    values = [value, value]
    difference = None if more is None else interval([more, more])
    return Cell(dict(enumerate(values)), interval(values), difference)


def report(*changes: float) -> Report:
    """Return two columns; each figure of the second is so much more, for sure."""
    rows = tuple(
        ReportRow(figure, (cell(1.0, None), cell(1.0 + change, change)))
        for figure, change in zip(FIGURES, changes, strict=True)
    )
    return Report({}, (("braid", ""), ("other", "")), (0, 1), rows)


@pytest.mark.parametrize(
    ("wait", "hours", "failed", "wins"),
    [
        (-0.5, 0.0, 0.0, True),
        (0.0, -0.5, 0.0, True),
        (-0.5, 0.5, 0.0, False),
        (-0.5, -0.5, 0.1, False),
        (0.0, 0.0, -0.1, False),
        (0.04, -0.4, 0.0, True),
        (-0.4, 0.04, 0.0, True),
        (0.06, -0.4, 0.0, False),
        (0.04, -0.03, 0.0, False),
        (0.04, -0.4, 0.1, False),
    ],
)
def test_a_count_wins_where_it_is_worse_in_nothing_or_barely(
    wait: float, hours: float, failed: float, wins: bool
) -> None:
    assert beats(report(wait, hours, failed), 1) is wins


OURS = Hour(wait=1.0, hours=3.0, failed=0.0)


def test_the_others_have_the_targets_that_could_beat_ours() -> None:
    others = {
        "Ray Serve, 2 a replica": Hour(0.5, 6.0, 0.0),
        "Ray Serve, 4 a replica": Hour(0.9, 4.0, 0.0),
        "Ray Serve, 8 a replica": Hour(1.5, 3.0, 0.0),
        "Ray Serve, 16 a replica": Hour(4.0, 2.0, 0.0),
        "HPA, 2 a replica": Hour(0.8, 2.0, 0.0),
        "HPA, 4 a replica": Hour(0.1, 1.0, 0.2),  # by refusing
    }
    assert chosen_rivals(OURS, others) == {
        "Ray Serve, 4 a replica": "as quick",
        "Ray Serve, 8 a replica": "as cheap",
        "HPA, 2 a replica": "as quick, as cheap",
    }


def test_others_that_are_never_as_quick_or_as_cheap_come_with_their_best() -> None:
    slow = {"HPA, 2 a replica": Hour(2.0, 4.0, 0.1), "HPA, 4 a replica": Hour(3.0, 3.5, 0.1)}
    assert chosen_rivals(OURS, slow) == {
        "HPA, 2 a replica": "as quick",
        "HPA, 4 a replica": "as cheap",
    }
