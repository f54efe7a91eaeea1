"""Reads ``manifest.json`` in an adapter's folder: Braid's own keys, or another tool's file."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.adapters.format.document import read_document
from cluster.adapters.format.shown import shown
from cluster.errors import AdapterMalformed

LABELS_FILE = "manifest.json"
MAX_DESCRIPTION, MAX_TAG = 2000, 100  # characters
MAX_TAGS = 32
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Labels:
    """Describes an adapter for display, and names its base for the check."""

    base_digest: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    is_foreign: bool = False
    """True if the file is another tool's: without ``base_digest``, and not as Braid writes it."""


def read_labels(path: Path) -> Labels:
    """Read the keys that are Braid's; null is absent, and other keys are provenance.

    A file that does not name a base and cannot be Braid's is another tool's and says nothing.

    Raises:
        AdapterMalformed: it names a base, and a key is not as it should be.
    """
    try:
        content = read_document(path)
    except AdapterMalformed:
        return Labels(is_foreign=True)
    try:
        return _labels(path, content)
    except AdapterMalformed:
        if content.get("base_digest") is not None:
            raise
        return Labels(is_foreign=True)


def _labels(path: Path, content: dict[str, Any]) -> Labels:
    base, description, tags = (
        content.get("base_digest"),
        content.get("description") or "",
        content.get("tags") or [],
    )
    if base is not None and not isinstance(base, str):
        raise AdapterMalformed(f"{path}: base_digest: expected a string, found {shown(base)}")
    if not isinstance(description, str):
        raise AdapterMalformed(
            f"{path}: description: expected a string, found {shown(description)}"
        )
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise AdapterMalformed(f"{path}: tags: expected a list of strings, found {shown(tags)}")
    if len(tags) > MAX_TAGS:
        raise AdapterMalformed(f"{path}: tags: expected at most {MAX_TAGS}, found {len(tags)}")
    _check_text(path, "description", description, MAX_DESCRIPTION)
    for index, tag in enumerate(tags):
        _check_text(path, f"tags[{index}]", tag, MAX_TAG)
    return Labels(base, description, tuple(tags))


def _check_text(path: Path, field: str, text: str, longest: int) -> None:
    """Refuse text that is too long for lists, or that would control a terminal."""
    if len(text) > longest:
        raise AdapterMalformed(
            f"{path}: {field}: expected at most {longest} characters, found {len(text)}"
        )
    for character in text:
        steers = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        if steers or character in _DIRECTIONS:
            raise AdapterMalformed(
                f"{path}: {field}: found the control character U+{ord(character):04X}"
            )
