"""Columns are compared with the first one seed by seed, in the direction that is better."""

from benchmarks.placement.simulation.compared import Compared, compared_page, difference_text
from cluster.simulation.report.figures import Figure

SHARE = Figure("requests", "attained", "%", "more")
WAIT = Figure("requests", "wait", "s")
FOUND = Compared(
    (("ours", "the first"), ("worse", "a rival"), ("alike", "another")),
    {
        SHARE: ((0.90, 0.94, 0.92), (0.85, 0.89, 0.87), (0.91, 0.93, 0.92)),
        WAIT: ((1.0, 2.0, 3.0), (1.5, 2.4, 3.6), (1.1, 1.9, 3.0)),
    },
)


def test_a_difference_is_sure_where_its_interval_excludes_nothing_at_all() -> None:
    assert FOUND.seeds == 3
    assert FOUND.is_worse(SHARE, 1)
    assert FOUND.is_worse(WAIT, 1)
    assert not FOUND.is_better(SHARE, 1)
    assert not FOUND.is_worse(SHARE, 2)
    assert not FOUND.is_better(WAIT, 2)


def test_intervals_that_overlap_are_not_apart_though_every_seed_says_the_same() -> None:
    assert FOUND.is_worse(WAIT, 1)
    assert not FOUND.is_apart(WAIT, 1)
    apart = Compared(FOUND.columns, {WAIT: ((1.0, 1.1, 1.2), (5.0, 5.1, 5.2), (0.1, 0.2, 0.3))})
    assert apart.is_apart(WAIT, 1)
    assert not apart.is_apart(WAIT, 2)


def test_one_seed_is_never_sure() -> None:
    one = Compared(FOUND.columns, {SHARE: ((0.9,), (0.1,), (0.2,))})
    assert not one.is_worse(SHARE, 1)
    assert not one.is_apart(SHARE, 1)


def test_the_page_marks_what_is_sure() -> None:
    page = compared_page("A title", ["Words."], FOUND)
    assert "| worse | a rival |" in page
    assert "| ours | 92 ± " in page
    assert "| worse | **-5.0 ± 0.0 points** |" in page
    assert "| alike | +0.0 ± 2.5 points |" in page
    assert difference_text(FOUND.difference(WAIT, 1), WAIT).startswith("+500 ± ")
