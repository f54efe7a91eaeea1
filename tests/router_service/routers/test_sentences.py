"""Sentence ends by rule, in whole texts and in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.routers.sentences import (
    SentenceConfig,
    SentenceSplitter,
    last_full_sentences,
    sentence_ends,
    sentences,
)
from router_service.routers.text_policy import TextPolicy, read_text

ANY_LENGTH = SentenceConfig(min_characters=1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It costs 3.14 today. Fine.", ["It costs 3.14 today.", "Fine."]),
        ("Dr. Smith met Mr. Jones. They left.", ["Dr. Smith met Mr. Jones.", "They left."]),
        ("J. R. Ewing did it. So did I. Yes.", ["J. R. Ewing did it.", "So did I.", "Yes."]),
        ("Use e.g. Redis. See www.site.com now.", ["Use e.g. Redis.", "See www.site.com now."]),
        ("Wait... what? He asked “why?” and left.", ["Wait... what?", "He asked “why?” and left."]),
        ("He said “go.” Then he left.", ["He said “go.”", "Then he left."]),
        ("What?! No way.", ["What?!", "No way."]),
        ("Steps:\n1. Open it.\n2. Close it.", ["Steps:\n1. Open it.", "2. Close it."]),
        ("A title\n\nA paragraph", ["A title", "A paragraph"]),
        ("これは文です。次の文です！終わり", ["これは文です。", "次の文です！", "終わり"]),
        ("यह वाक्य है। यह दूसरा है।", ["यह वाक्य है।", "यह दूसरा है।"]),
        ("Ça va ? Oui. Élan !", ["Ça va ?", "Oui.", "Élan !"]),
        ("the year 1999. Then 2000.", ["the year 1999.", "Then 2000."]),
        ("def f(x):\n    return x.y\n", ["def f(x):\n    return x.y"]),
        ("", []),
        ("  \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, wanted: list[str]) -> None:
    assert sentences(text, ANY_LENGTH) == wanted


def test_short_sentences_are_joined_with_the_next() -> None:
    config = SentenceConfig(min_characters=12)
    assert sentences("Yes. No. That is all. Bye.", config) == ["Yes. No. That is all.", "Bye."]


def test_an_end_is_known_with_the_first_character_of_the_next_sentence() -> None:
    splitter = SentenceSplitter(ANY_LENGTH)
    assert [splitter.feed(piece) for piece in ("It is 3", ".", "5", ".", " ", "\n", "T")] == [
        [], [], [], [], [], [], [10],
    ]  # fmt: skip
    assert splitter.finish() == [13]


def test_a_wide_end_waits_for_more_of_its_run_only() -> None:
    splitter = SentenceSplitter(ANY_LENGTH)
    assert splitter.feed("はい。") == []
    assert splitter.feed("」そ") == [4]


ALPHABET = st.sampled_from(
    [*"aBI 1.!?…。」\n\"')é漢", ". ", "Dr. ", "\n\n", "e.g. ", "A sentence. "]
)
TEXTS = st.lists(ALPHABET, max_size=40).map("".join)
CONFIGS = st.builds(SentenceConfig, min_characters=st.integers(1, 12))


@given(TEXTS, CONFIGS, st.lists(st.integers(1, 5), min_size=1, max_size=60))
def test_pieces_give_the_ends_of_the_whole(
    text: str, config: SentenceConfig, sizes: list[int]
) -> None:
    splitter = SentenceSplitter(config)
    found: list[int] = []
    at = 0
    for size in (*sizes, len(text)):
        found += splitter.feed(text[at : at + size])
        at += size
    assert found + splitter.finish() == sentence_ends(text, config)


@given(TEXTS, CONFIGS, st.integers(0, 80))
def test_an_end_that_was_given_is_never_taken_back(
    text: str, config: SentenceConfig, cut: int
) -> None:
    early = SentenceSplitter(config).feed(text[:cut])
    assert SentenceSplitter(config).feed(text)[: len(early)] == early


@given(TEXTS, CONFIGS)
def test_ends_rise_and_every_sentence_is_long_enough(text: str, config: SentenceConfig) -> None:
    ends = sentence_ends(text, config)
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) for end in ends)
    lengths = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    assert all(length >= config.min_characters for length in lengths[:-1])
    covered = ends[-1] if ends else 0
    assert not text[covered:].strip()


def test_the_last_full_sentences_leave_out_the_one_being_written() -> None:
    text = "One is here. Two is here. Three is"
    assert last_full_sentences(text, 1, ANY_LENGTH) == "Two is here."
    assert last_full_sentences(text, 5, ANY_LENGTH) == "One is here. Two is here."
    assert last_full_sentences("Nothing yet", 1, ANY_LENGTH) == ""


@pytest.mark.parametrize(
    ("characters", "answer", "wanted"),
    [
        (None, "", "alpha beta gamma"),
        (100, "", "alpha beta gamma"),
        (10, "", "beta gamma"),
        (9, "", "gamma"),
        (3, "", "mma"),
        (5, "It is done. And", "gamma\nIt is done."),
        (5, "It is done", "gamma"),
    ],
)
def test_what_a_router_reads(characters: int | None, answer: str, wanted: str) -> None:
    policy = TextPolicy(prompt_characters=characters, sentences=ANY_LENGTH)
    assert read_text(policy, "alpha beta gamma", answer) == wanted
