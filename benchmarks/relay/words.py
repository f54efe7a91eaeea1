"""Tokens whose text can be counted again in what a client reads."""

from pathlib import Path

from tokenizers import Tokenizer

COUNT = 1000
BLANK = "Ġ"  # how byte-level vocabularies write the blank before a word


def word_tokens(model_dir: Path) -> tuple[int, ...]:
    """Return ids of tokens that are one blank and one word of plain letters.

    A text of such tokens has as many blanks as tokens.

    Raises:
        ValueError: the vocabulary has no such tokens.
    """
    vocabulary = Tokenizer.from_file(str(model_dir / "tokenizer.json")).get_vocab()
    found = sorted(
        number
        for piece, number in vocabulary.items()
        if piece.startswith(BLANK)
        and len(piece) > 1
        and piece[1:].isascii()
        and piece[1:].isalpha()
    )
    if not found:
        raise ValueError(f"{model_dir}: its vocabulary is not of byte-level pieces")
    return tuple(found[:COUNT])
