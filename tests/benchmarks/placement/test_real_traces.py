"""A count that refuses requests does not win by the waits of those it answers."""

import pytest

from benchmarks.placement.real_traces import beats
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
    ],
)
def test_a_count_wins_only_where_it_is_worse_in_nothing(
    wait: float, hours: float, failed: float, wins: bool
) -> None:
    assert beats(report(wait, hours, failed), 1) is wins
