"""Tokens' bytes join to the text, and their places are in it, over several kinds of tokenizer."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.base_model.source import resolve_model
from cluster.config import Settings, cache_folder
from deployments.front.text.text_stream import TextCodec, TextStream
from deployments.front.text.token_bytes import TokenBytes, TokenPlaces, offsets_in
from tests.support.tokenizers import KINDS

TOKENIZERS = {name: make() for name, make in KINDS.items()}
VOCABULARIES = {name: TokenBytes(tokenizer) for name, tokenizer in TOKENIZERS.items()}

texts = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab é日🌊👩‍👧 \n\t▁"), st.characters(exclude_categories=["Cs"])
    ),
    max_size=24,
)


def places_of(vocabulary: TokenBytes, ids: list[int], *, skip: bool = True) -> TokenPlaces:
    return TokenPlaces(vocabulary, skip_special_tokens=skip)


def check(tokenizer: Tokenizer, vocabulary: TokenBytes, ids: list[int]) -> None:
    """Check joined bytes and offsets of these tokens against the incremental decoder."""
    stream = TextStream(tokenizer, ())
    text = "".join(stream.push([number]) for number in ids) + stream.finish()
    placed = places_of(vocabulary, ids)
    places = [placed.add(number) for number in ids]
    joined = b"".join(
        vocabulary.of(number, first=place.first)
        for number, place in zip(ids, places, strict=True)
        if place.shown
    )
    assert joined.decode(errors="ignore").startswith(text)
    assert joined.decode() == text
    offsets = [place.offset for place in places]
    assert all(a <= b for a, b in pairwise(offsets))
    assert all(0 <= offset <= len(text) for offset in offsets)
    for number, place in zip(ids, places, strict=True):
        found = vocabulary.of(number, first=place.first)
        try:
            said = found.decode()
        except UnicodeDecodeError:
            continue
        if place.shown:
            assert text[place.offset : place.offset + len(said)] == said


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_bytes_join_to_the_text_and_offsets_are_in_it(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    if "\ufffd" in text or (kind != "byte-level" and "▁" in text):
        return  # the decoder waits behind the one, and makes a blank of the other
    check(tokenizer, VOCABULARIES[kind], tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_offsets_of_a_prompt_are_in_its_text(kind: str, text: str) -> None:
    encoding = TOKENIZERS[kind].encode(text, add_special_tokens=False)
    offsets = offsets_in(text, encoding.offsets)
    assert len(offsets) == len(encoding.ids)
    assert all(a <= b for a, b in pairwise(offsets))
    assert all(0 <= offset <= len(text) for offset in offsets)
    assert not offsets or offsets[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_character_keep_their_bytes(kind: str) -> None:
    tokenizer, vocabulary = TOKENIZERS[kind], VOCABULARIES[kind]
    ids = tokenizer.encode("🌊", add_special_tokens=False).ids
    joined = b"".join(vocabulary.of(number) for number in ids)
    assert joined.strip() == "🌊".encode()
    assert len(ids) > 1


def test_special_tokens_add_nothing_unless_asked_for() -> None:
    tokenizer, vocabulary = TOKENIZERS["byte-level"], VOCABULARIES["byte-level"]
    ids = tokenizer.encode("a<|im_end|>b").ids
    hidden = places_of(vocabulary, ids).add_all(ids, last_is_hidden=False)
    assert [(place.offset, place.shown) for place in hidden] == [(0, True), (1, False), (1, True)]
    shown = places_of(vocabulary, ids, skip=False).add_all(ids, last_is_hidden=True)
    assert [(p.offset, p.shown) for p in shown] == [(0, True), (1, True), (11, False)]
    assert vocabulary.of(ids[1]) == b"<|im_end|>"


@pytest.fixture(scope="module")
def real() -> TextCodec:
    """The quickstart model's."""
    location = resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct", cache_folder(Settings()))
    return TextCodec(Path(location.path))


@pytest.mark.model
@settings(max_examples=300)
@given(text=texts)
def test_the_real_tokenizer(real: TextCodec, text: str) -> None:
    ids = real.encode(text)
    if real.prompt_text(ids) != text:
        return  # its vocabulary lacks some bytes, so this text cannot be given to the model
    if "\ufffd" not in text:
        check(real.backend, real.vocabulary, ids)
    assert b"".join(bytes(real.token_bytes(number) or ()) for number in ids) == text.encode()
    offsets = real.prompt_offsets(text, ids, is_text=True)
    assert offsets == real.prompt_offsets(text, ids, is_text=False)


@pytest.mark.model
def test_the_real_tokenizer_names_parts(real: TextCodec) -> None:
    ids = real.encode("h 🌊")
    assert [real.token_name(number) for number in ids] == [
        "h",
        "bytes:\\x20\\xf0\\x9f",
        "bytes:\\x8c",
        "bytes:\\x8a",
    ]
    assert real.prompt_offsets("h 🌊", ids, is_text=True) == (0, 1, 2, 2)
