"""Mixtures as text and as data; needs no vLLM."""

import math

import pytest
from vllm_weighted_lora.mixtures import (
    MOST_TERMS,
    Term,
    canonical_text,
    decode,
    encode,
    make_terms,
    parse_text,
)


def test_text_is_names_and_weights() -> None:
    assert parse_text("cron=0.4,json=-0.3") == (("cron", 0.4), ("json", -0.3))
    assert parse_text("cron") == (("cron", 1.0),)
    assert parse_text("cron,v1.2=2e0") == (("cron", 1.0), ("v1.2", 2.0))


@pytest.mark.parametrize(
    "text", ["", "cron=", "cron=x", "a,,b", "../etc=1", ".hidden", "a/b=1", "-x=1", "org/model"]
)
def test_other_names_are_not_mixtures(text: str) -> None:
    assert parse_text(text) is None


def test_terms_come_in_one_order() -> None:
    one = make_terms([("b", 1), ("a", -0.5)])
    other = make_terms([("a", -0.5), ("b", 1.0)])
    assert one == other == (Term("a", -0.5), Term("b", 1.0))
    assert canonical_text(one) == "a=-0.5,b=1.0"
    assert canonical_text(make_terms([("a", -0.0)])) == "a=0.0"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([], "1 to 8 adapters"),
        ([(f"a{i}", 1.0) for i in range(MOST_TERMS + 1)], "1 to 8 adapters, not 9"),
        ([("a", 1.0), ("a", 2.0)], "'a' stands twice"),
        ([("", 1.0)], "not empty"),
        ([("a", math.nan)], "weight of 'a' must be finite"),
        ([("a", math.inf)], "weight of 'a' must be finite"),
        ([("a", True)], "weight of 'a' must be a number"),
        ([("a", "1")], "weight of 'a' must be a number"),
    ],
)
def test_what_is_not_a_mixture_is_refused(terms: list[tuple[str, float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_terms(terms)


def test_different_mixtures_have_different_texts() -> None:
    texts = {
        canonical_text(make_terms([("a", 1.0), ("b", 2.0)])),
        canonical_text(make_terms([("a=1.0,b", 2.0)])),
        canonical_text(make_terms([("a", 1.0)]), {"a": 1}),
        canonical_text(make_terms([("a", 1.0)]), {"a": 2}),
        canonical_text(make_terms([("a#1", 1.0)])),
        canonical_text(make_terms([("a", 1.0)])),
    }
    assert len(texts) == 6


def test_a_mixture_survives_the_way_between_processes() -> None:
    terms = make_terms([("3@9f8a,=é", 1.75), ("b", -2.5e-7)], {"b": "/adapters/b"})
    assert decode(encode(terms, "key")) == (terms, "key")
    assert decode(encode(terms, None)) == (terms, None)


@pytest.mark.parametrize("path", ["mixture:", "mixture:[]", "mixture:[null,[]]", "mixture:{}"])
def test_a_broken_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="does not describe a mixture"):
        decode(path)
