"""The bytes that plans move within any minute."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.planning.budget import WINDOW_S, ChurnBudget
from cluster.placement.planning.plan import ChurnLeft

LIMIT = 100


def test_a_minute_after_a_move_its_bytes_may_be_moved_again() -> None:
    budget = ChurnBudget()
    assert budget.left(LIMIT, 0, 0.0) == ChurnLeft(100, 400, unused=True)
    budget.spend(70, 10.0)
    budget.spend(60, 20.0)
    assert budget.left(LIMIT, 0, 69.9) == ChurnLeft(0, 270, unused=False)
    assert budget.left(LIMIT, 0, 70.0) == ChurnLeft(40, 340, unused=False)
    assert budget.left(LIMIT, 0, 80.0) == ChurnLeft(100, 400, unused=True)


def test_promises_may_move_the_content_of_a_pool() -> None:
    budget = ChurnBudget()
    budget.spend(100, 0.0)
    assert budget.left(LIMIT, 900, 1.0) == ChurnLeft(0, 800, unused=False)


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 150), st.booleans()), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_minute_moves_more_than_the_limit(asked) -> None:
    """One move that is larger than the limit may be made after a minute without any."""
    budget, now = ChurnBudget(), 0.0
    moved: list[tuple[float, int, bool]] = []
    for wait, nbytes, promised in asked:
        now += wait
        left = budget.left(LIMIT, 0, now)
        if left.unused or nbytes <= (left.urgent if promised else left.ordinary):
            budget.spend(nbytes, now)
            moved.append((now, nbytes, promised))
    for at, _, _ in moved:
        minute = [move for move in moved if at <= move[0] < at + WINDOW_S]
        whole = sum(nbytes for _, nbytes, _ in minute)
        assert whole <= max(4 * LIMIT, minute[0][1])
        if not any(promised for *_, promised in minute):
            assert whole <= max(LIMIT, minute[0][1])
