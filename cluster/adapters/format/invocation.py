"""Reads the tokens that invoke an activated LoRA from its ``adapter_config.json``."""

from pathlib import Path
from typing import Any

from cluster.errors import AdapterMalformed, AdapterWrongBase

KEY = "alora_invocation_tokens"
MAX_TOKENS = 256


def read_invocation(path: Path, content: dict[str, Any]) -> tuple[int, ...]:
    """Return the tokens of a parsed configuration; none for an ordinary adapter, as in PEFT.

    Raises:
        AdapterMalformed: not a list of at most ``MAX_TOKENS`` token ids.
    """
    value = content.get(KEY)
    if not value:
        return ()
    known = isinstance(value, list) and len(value) <= MAX_TOKENS
    if not known or any(type(token) is not int or token < 0 for token in value):
        raise AdapterMalformed(
            f"{path}: {KEY}: expected a list of at most {MAX_TOKENS} token ids of 0 or more, "
            f"found {str(value)[:200]}"
        )
    return tuple(value)


def check_invocation(path: Path, tokens: tuple[int, ...], vocab_size: int) -> None:
    """Refuse tokens that no prompt for this base can have; a ``vocab_size`` of 0 is not known.

    Raises:
        AdapterWrongBase: with the token and the size of the base's vocabulary.
    """
    largest = max(tokens, default=0)
    if vocab_size and largest >= vocab_size:
        raise AdapterWrongBase(
            f"{path}: {KEY}: expected tokens below {vocab_size}, the size of the base's "
            f"vocabulary, found {largest}; train the adapter on this base"
        )
