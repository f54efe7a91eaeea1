"""Finds the bytes that each token of a vocabulary stands for, and their places in a text."""

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Reads a tokenizer's vocabulary as bytes, so that parts of characters keep theirs.

    Vocabularies of byte-level pieces, and of pieces with bytes to fall back to (``<0x0A>``), are
    read exactly: the bytes of a text's tokens, joined, are the text. Of any other kind a token has
    the bytes of what it decodes to alone.

    Args:
        backend: the tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._added = {number: token.content.encode() for number, token in added.items()}
        self._special = frozenset(number for number, token in added.items() if token.special)
        steps = _decoder_steps(backend)
        self._byte_level = _bytes_of_characters() if "ByteLevel" in steps else None
        self._space = _space_of(steps)
        self._strips_first = "Metaspace" in steps or "Strip" in steps
        self._pieces: dict[int, bytes] = {}  # those that were asked for; at most the vocabulary

    def is_special(self, token_id: int) -> bool:
        """Return whether texts usually leave the token out."""
        return token_id in self._special

    def of(self, token_id: int, *, first: bool = False) -> bytes:
        """Return the token's bytes; the first of a text loses the blank that some decoders drop."""
        found = self._added.get(token_id)
        if found is not None:
            return found
        found = self._pieces.get(token_id)
        if found is None:
            found = self._piece(token_id)
            if found:
                self._pieces[token_id] = found
        if first and self._strips_first and found.startswith(b" "):
            return found[1:]
        return found

    def _piece(self, token_id: int) -> bytes:
        piece = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_level is not None:
            return b"".join(self._byte_level.get(char) or char.encode() for char in piece)
        if self._space is None:
            return self._backend.decode([token_id], skip_special_tokens=False).encode()
        byte = BYTE_PIECE.fullmatch(piece)
        if byte is not None:
            return bytes([int(byte[1], 16)])
        return piece.replace(self._space, " ").encode()


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Locates a token in the text of its sequence."""

    offset: int  # characters that are complete before it
    first: bool  # nothing of the text comes before it
    shown: bool  # false: a special token, or the end of the sequence, which the text leaves out
    skips_special: bool = True  # the text leaves special tokens out


class TokenPlaces:
    """Locates a sequence's tokens, one after the other.

    Args:
        vocabulary: what the tokens stand for.
        skip_special_tokens: the text leaves special tokens out.
    """

    def __init__(self, vocabulary: TokenBytes, *, skip_special_tokens: bool = True) -> None:
        self._vocabulary = vocabulary
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0
        self._first = True

    def add(self, token_id: int, *, shown: bool = True) -> TokenPlace:
        """Locate the next token; ``shown``: the text may have it."""
        offset, first = self._characters, self._first
        shown = shown and not (self._skip and self._vocabulary.is_special(token_id))
        if shown:
            found = self._vocabulary.of(token_id, first=first)
            self._characters += len(self._decoder.decode(found))
            self._first = False
        return TokenPlace(offset, first, shown, self._skip)

    def add_all(self, token_ids: Sequence[int], *, last_is_hidden: bool) -> tuple[TokenPlace, ...]:
        """Locate the next tokens; ``last_is_hidden``: the last one ends the sequence."""
        last = len(token_ids) - 1 if last_is_hidden else -1
        return tuple(
            self.add(token_id, shown=number != last) for number, token_id in enumerate(token_ids)
        )


def offsets_in(text: str, spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """Return the offsets at which tokens begin in the text that they were made from.

    Args:
        text: the text.
        spans: (first, end) of each token's characters, as the tokenizer tells them: tokens that
            share a character share its span, blanks before a word may be left out, and (0, 0) is
            a token that was added.
    """
    offsets: list[int] = []
    end = 0
    for start, stop in spans:
        begins = end if stop <= start else min(start, end)
        offsets.append(max(begins, offsets[-1] if offsets else 0))
        end = max(end, stop)
    return tuple(min(offset, len(text)) for offset in offsets)


def _decoder_steps(backend: Tokenizer) -> dict[str, dict[str, Any]]:
    """Return the steps of the tokenizer's decoder by their type; the first of each."""
    if backend.decoder is None:
        return {}
    described = json.loads(backend.decoder.__getstate__())
    steps = described["decoders"] if described["type"] == "Sequence" else [described]
    return {step["type"]: step for step in reversed(steps)}


def _space_of(steps: dict[str, dict[str, Any]]) -> str | None:
    """Return the character that stands for a blank in pieces of text, or None."""
    if "Metaspace" in steps:
        return str(steps["Metaspace"]["replacement"])
    replaced = steps.get("Replace")
    if replaced is not None and replaced["content"] == " ":
        pattern = replaced["pattern"].get("String")
        return None if pattern is None else str(pattern)
    return None


def _bytes_of_characters() -> dict[str, bytes]:
    """Return the byte behind each character of byte-level pieces.

    Bytes that print stand for themselves, the others for characters from U+0100 on, in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    found = {chr(byte): bytes([byte]) for byte in printing}
    found |= {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
    return found
