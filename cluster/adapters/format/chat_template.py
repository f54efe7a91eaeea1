"""Reads an adapter's chat template: ``chat_template.jinja``, or its tokenizer's config."""

import hashlib
from pathlib import Path
from typing import Any

from cluster.adapters.format.document import read_document, read_text
from cluster.adapters.format.shown import shown
from cluster.errors import AdapterMalformed

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILE = "tokenizer_config.json"
MAX_TEMPLATE_BYTES = 256 * 2**10
MAX_TOKENIZER_BYTES = 8 * 2**20
"""A vocabulary's added tokens are listed in it."""


def read_chat_template(template: Path | None, tokenizer: Path | None) -> str | None:
    """Return the template that transformers would use, or None if neither file has one.

    Args:
        template: of an existing ``chat_template.jinja``.
        tokenizer: of an existing ``tokenizer_config.json``.

    Raises:
        AdapterMalformed: a file cannot be read or understood, or the template is too long.
    """
    if template is not None:
        return read_text(template, MAX_TEMPLATE_BYTES)
    if tokenizer is None:
        return None
    found = _default(tokenizer, read_document(tokenizer, MAX_TOKENIZER_BYTES).get("chat_template"))
    if found is not None:
        _check_length(tokenizer, found)
    return found


def digest_of(template: str) -> str:
    """Return the sha256 that identifies a template."""
    return hashlib.sha256(template.encode()).hexdigest()


def _check_length(path: Path, template: str) -> None:
    try:
        nbytes = len(template.encode())
    except UnicodeEncodeError as error:
        raise AdapterMalformed(f"{path}: chat_template: not text: {error.reason}") from error
    if nbytes > MAX_TEMPLATE_BYTES:
        raise AdapterMalformed(
            f"{path}: chat_template: expected at most {MAX_TEMPLATE_BYTES} bytes, found {nbytes}"
        )


def _default(path: Path, found: Any) -> str | None:
    """Return the only template, or of several by name the one that is called default."""
    if isinstance(found, list):
        named = [item for item in found if isinstance(item, dict) and item.get("name") == "default"]
        found = named[0].get("template") if named else None
    if found is not None and not isinstance(found, str):
        raise AdapterMalformed(f"{path}: chat_template: expected a string, found {shown(found)}")
    return found or None
