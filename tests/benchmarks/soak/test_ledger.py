"""The soak's books: every request sent ends once, and the server counts as many."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak.ledger import Ledger
from cluster.domain.request import Outcome

DONE, LEFT = Outcome.COMPLETED, Outcome.CANCELLED


def ledger(*outcomes: Outcome) -> Ledger:
    books = Ledger()
    for number, outcome in enumerate(outcomes):
        books.send(number)
        books.end(number, "base", outcome, set(Outcome), "")
    return books


@given(st.lists(st.sampled_from(list(Outcome))), st.data())
def test_books_balance_whatever_became_of_those_who_left(
    outcomes: list[Outcome], data: st.DataObject
) -> None:
    books = ledger(*outcomes)
    counted = Counter(
        data.draw(st.sampled_from(list(Outcome))) if outcome is LEFT else outcome
        for outcome in outcomes
    )
    assert books.compare(counted) == []
    assert books.problems == []


@given(st.lists(st.sampled_from(list(Outcome))), st.sampled_from(list(Outcome)))
def test_a_request_counted_twice_or_not_at_all_is_found(
    outcomes: list[Outcome], odd: Outcome
) -> None:
    counted = Counter(outcomes)
    assert ledger(*outcomes, odd).compare(counted)
    assert ledger(*outcomes).compare(counted + Counter([odd]))


def test_a_request_that_stayed_is_named_alike_on_both_sides() -> None:
    found = ledger(DONE, DONE).compare({DONE: 1, LEFT: 1})
    assert [item.split(":")[0] for item in found] == ["completed", "cancelled"]


def test_open_requests_are_found() -> None:
    books = ledger(DONE)
    books.send(7)
    assert any("still open" in item for item in books.compare({DONE: 1}))


@pytest.mark.parametrize("outcome", [Outcome.FAILED_ENGINE, Outcome.REJECTED_INVALID])
def test_an_outcome_that_the_kind_cannot_have_is_a_problem(outcome: Outcome) -> None:
    books = Ledger()
    books.send(3)
    books.end(3, "base", outcome, {DONE}, "500 engine_error: broken")
    assert books.problems == [f"request 3 (base) ended as {outcome}: 500 engine_error: broken"]


def test_a_second_end_and_a_second_sending_are_problems() -> None:
    books = ledger(DONE)
    books.end(0, "base", DONE, {DONE}, "")
    books.send(1)
    books.send(1)
    assert len(books.problems) == 2


def test_a_lost_request_is_no_longer_open_but_the_books_do_not_balance() -> None:
    books = Ledger()
    books.send(0)
    books.lose(0, "base", "reset")
    assert books.problems == ["request 0 (base) had no end: reset"]
    assert not books.open
    assert books.compare({DONE: 1}) == [
        "0 requests ended here, 1 were sent",
        "completed: the server counted 1, 0 ended so here",
    ]
