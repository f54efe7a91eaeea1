"""Wrong answers are found, each for what it is."""

import random
from dataclasses import replace

import pytest

from benchmarks.adapters.asking import Reply, versions
from benchmarks.adapters.churn import Churn, Made
from benchmarks.adapters.names import NameBook
from benchmarks.adapters.signature import Asked, judge
from benchmarks.adapters.signatures import Signature, Voice

A, B = "a" * 64, "b" * 64
LAMP, RIVER = Signature(1, " lamp"), Signature(2, " river")
GOOD = Reply(sent=2.0, status=200, text=" lamp lamp", adapters={"x": A}, replica="r", ended=3.0)


@pytest.fixture
def churn() -> Churn:
    book = NameBook()
    book.change("x", A, 0.0, 1.0)
    made = Churn(None, [], book, random.Random(0), 1)  # type: ignore[arg-type] # asks nobody
    made.made_by = {A: Made(LAMP, Voice(), b""), B: Made(RIVER, Voice(), b"")}
    return made


def found(churn: Churn, reply: Reply, *names: str) -> dict[str, int]:
    asked = Asked(names or ("x",), "Hello", 2, reply)
    tally = judge([asked], churn, lambda made, _: f" a {made[0].signature.text}")
    kinds = ("served", "gone", "unclear", "wrong_tokens", "wrong_versions", "unnamed", "failed")
    assert len(tally.problems) == sum(getattr(tally, kind) for kind in kinds[3:])
    return {kind: n for kind in kinds if (n := getattr(tally, kind))}


def test_a_right_answer_is_served(churn: Churn) -> None:
    assert found(churn, GOOD) == {"served": 1}


def test_one_token_of_other_weights_is_found(churn: Churn) -> None:
    assert found(churn, replace(GOOD, text=" lamp river")) == {"served": 1, "wrong_tokens": 1}
    assert found(churn, replace(GOOD, text=" lamp")) == {"served": 1, "wrong_tokens": 1}


def test_other_words_are_right_where_the_reference_says_them_too(churn: Churn) -> None:
    assert found(churn, replace(GOOD, text=" a  lamp")) == {"served": 1, "unclear": 1}
    assert found(churn, replace(GOOD, text=" a  river")) == {"served": 1, "wrong_tokens": 1}


def test_two_names_of_one_version_are_answered_under_one(churn: Churn) -> None:
    churn.book.change("y", A, 0.0, 1.0)
    churn.book.change("z", B, 0.0, 1.0)
    assert found(churn, GOOD, "x", "y") == {"served": 1}
    assert found(churn, GOOD, "x", "z") == {"served": 1, "unnamed": 1}
    assert found(churn, replace(GOOD, adapters={"x": A, "w": A}), "x", "y") == {
        "served": 1,
        "unnamed": 1,
    }


def test_the_right_weights_under_a_name_that_did_not_mean_them_are_found(churn: Churn) -> None:
    other = replace(GOOD, text=" river river", adapters={"x": B})
    assert found(churn, other) == {"served": 1, "wrong_versions": 1}
    churn.book.change("x", B, 2.5, 2.6)
    assert found(churn, other) == {"served": 1}, "it was switched meanwhile"
    assert found(churn, replace(GOOD, sent=2.7)) == {"served": 1, "wrong_versions": 1}


def test_an_answer_must_name_all_its_versions(churn: Churn) -> None:
    assert found(churn, replace(GOOD, adapters={})) == {"served": 1, "unnamed": 1}
    churn.book.change("y", B, 0.0, 1.0)
    assert found(churn, GOOD, "x", "y") == {"served": 1, "unnamed": 1}
    both = replace(GOOD, adapters={"x": A, "y": B})
    assert found(churn, both, "x", "y") == {"served": 1}


def test_only_what_was_removed_may_be_missing(churn: Churn) -> None:
    missing = Reply(sent=2.0, status=404, code="model_not_found", ended=3.0)
    assert found(churn, missing) == {"failed": 1}
    churn.book.change("x", None, 2.9, 4.0)
    assert found(churn, missing) == {"gone": 1}
    assert found(churn, replace(missing, status=503, code="adapter_capacity")) == {"failed": 1}
    assert found(churn, replace(GOOD, problem="broke off")) == {"failed": 1}


def test_generations_are_read_from_the_header() -> None:
    assert versions(f"x@{A};w=1, y@{B};w=-0.25") == {"x": A, "y": B}
    assert versions("") == {}
