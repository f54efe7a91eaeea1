"""Possible meanings of a name while a request was under way."""

import math

from hypothesis import given
from hypothesis import strategies as st

from testing.signatures.name_book import NameBook


def test_between_request_and_answer_both_are_right() -> None:
    book = NameBook()
    book.change("sql", "a", sent=1.0, answered=2.0)
    assert book.meant("sql", 0.0, 0.9) == {None}
    assert book.meant("sql", 1.5, 1.6) == {None, "a"}
    assert book.meant("sql", 2.1, 9.0) == {"a"}
    book.change("sql", "b", sent=3.0, answered=4.0)
    book.change("sql", None, sent=5.0, answered=6.0)
    assert book.meant("sql", 2.5, 3.5) == {"a", "b"}
    assert book.meant("sql", 2.5, 5.5) == {"a", "b", None}
    assert book.meant("sql", 6.1, math.inf) == {None}
    assert (book.current("sql"), book.names, book.changes) == (None, [], 3)


def test_a_name_that_never_was_is_nothing() -> None:
    assert NameBook().meant("sql", 0.0, 1.0) == {None}


CHANGES = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 5), st.integers(1, 5)), max_size=8
)


@given(changes=CHANGES, data=st.data())
def test_agrees_with_a_name_that_is_looked_at_every_moment(changes, data) -> None:
    book, moments, now = NameBook(), {}, 0
    current: str | None = None
    for version, pause, takes in changes:
        for at in range(now, now + pause):
            moments[at] = {current}
        now += pause
        for at in range(now, now + takes + 1):
            moments[at] = {current, version}
        book.change("sql", version, now, now + takes)
        now += takes + 1
        current = version
    moments[now] = {current}
    begin = data.draw(st.integers(0, now))
    end = data.draw(st.integers(begin, now))
    expected = set().union(*(moments[at] for at in range(begin, end + 1)))
    assert book.meant("sql", begin, end) == expected
