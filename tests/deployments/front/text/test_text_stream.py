"""Incremental decoding and stop strings, against decoding everything at once."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deployments.front.text.text_stream import TextStream


@pytest.fixture(scope="module")
def backend() -> Tokenizer:
    """One token for each byte: every split of a character's bytes can happen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def chunks_of(ids: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    places = sorted({min(cut, len(ids)) for cut in cuts})
    edges = [0, *places, len(ids)]
    return [list(ids[a:b]) for a, b in pairwise(edges)]


def run(
    backend: Tokenizer, chunks: list[list[int]], stop: Sequence[str], min_tokens: int = 0
) -> tuple[str, bool]:
    stream = TextStream(backend, stop, min_tokens)
    text = ""
    for chunk in chunks:
        text += stream.push(chunk)
        if stream.stopped:
            return text, True
    return text + stream.finish(), False


texts = st.text(alphabet="abcé日🙂 ", max_size=24)
stops = st.lists(st.text(alphabet="abc é日", min_size=1, max_size=4), max_size=3)


@given(text=texts, stop=stops, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_split_gives_the_text_up_to_the_first_stop_string(
    backend: Tokenizer, text: str, stop: list[str], cuts: list[int]
) -> None:
    ids = backend.encode(text).ids
    got, stopped = run(backend, chunks_of(ids, cuts), stop)
    by_character = next(
        (
            text[:end][: min(at)]
            for end in range(1, len(text) + 1)
            if (at := [i for s in stop if (i := text[:end].find(s)) >= 0])
        ),
        None,
    )
    assert stopped == (by_character is not None)
    assert got == (text if by_character is None else by_character)


@given(
    text=st.text(alphabet="ab", max_size=16),
    stop=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
    least=st.integers(0, 18),
)
def test_a_stop_string_counts_only_after_min_tokens(
    backend: Tokenizer, text: str, stop: list[str], cuts: list[int], least: int
) -> None:
    """One token for each character here, so a string may end where ``least`` is exceeded."""
    got, stopped = run(backend, chunks_of(backend.encode(text).ids, cuts), stop, least)
    expected = next(
        (
            text[: min(at)]
            for end in range(least + 1, len(text) + 1)
            if (at := [end - len(s) for s in stop if text[:end].endswith(s)])
        ),
        None,
    )
    assert stopped == (expected is not None)
    assert got == (text if expected is None else expected)


def test_a_stop_string_may_begin_before_min_tokens(backend: Tokenizer) -> None:
    ids = backend.encode("xabxab").ids
    assert run(backend, [ids], ["xab", "ab"], 3) == ("xab", True)
    assert run(backend, [ids], ["xab", "ab"], 2) == ("", True)
    assert run(backend, [ids], ["xab", "ab"], 6) == ("xabxab", False)


@given(text=texts, stop=stops)
def test_nothing_is_taken_back(backend: Tokenizer, text: str, stop: list[str]) -> None:
    """Released text never contains the beginning of a stop string that then completes."""
    stream = TextStream(backend, stop)
    released = ""
    for token in backend.encode(text).ids:
        released += stream.push([token])
        assert not any(s in released for s in stop)


def test_an_incomplete_character_is_never_shown(backend: Tokenizer) -> None:
    ids = backend.encode("日").ids
    stream = TextStream(backend, ())
    assert stream.push(ids[:2]) == ""
    assert stream.push(ids[2:]) == "日"
    assert TextStream(backend, ()).push(ids[:2]) + stream.finish() == ""


def test_what_stopped_it_stays_where_asked_for(backend: Tokenizer) -> None:
    ids = backend.encode("xabcd").ids
    for include, text in ((False, "xa"), (True, "xabc")):
        stream = TextStream(backend, ["bc"], include_stop=include)
        assert stream.push(ids) == text
        assert stream.stopped


def test_the_token_that_ends_a_sequence_is_left_out(backend: Tokenizer) -> None:
    ids = backend.encode("abc").ids
    assert TextStream(backend, ()).push(ids, ends=True) == "ab"
    assert TextStream(backend, (), include_stop=True).push(ids, ends=True) == "abc"


def test_special_tokens_are_in_the_text_where_asked_for(backend: Tokenizer) -> None:
    other = Tokenizer.from_str(backend.to_str())
    other.add_special_tokens(["<|x|>"])
    ids = other.encode("a<|x|>b").ids
    assert TextStream(other, ()).push(ids) == "ab"
    assert TextStream(other, (), skip_special_tokens=False).push(ids) == "a<|x|>b"
    stopped = TextStream(other, ["|>b"], skip_special_tokens=False)
    assert stopped.push(ids) == "a<|x"
