"""A JSON document of an adapter's folder, read with a bound on its size."""

import json
from pathlib import Path
from typing import Any

from cluster.errors import AdapterMalformed
from cluster.repeated import repeated

MAX_DOCUMENT_BYTES = 2**20


def read_document(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most ``MAX_DOCUMENT_BYTES``.

    Raises:
        AdapterMalformed: it cannot be read, is too long, not JSON, or not an object; a key is
            there twice, so that nobody can say which value is meant.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise AdapterMalformed(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise AdapterMalformed(f"{path}: expected at most {MAX_DOCUMENT_BYTES} bytes, found more")
    return parse_object(raw, str(path))


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which every key is there once.

    Raises:
        AdapterMalformed: as ``read_document``; messages begin with ``where``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = repeated(name for name, _ in pairs)
            raise AdapterMalformed(f"{where}: named more than once: {', '.join(twice[:8])}")
        return found

    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AdapterMalformed(f"{where}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise AdapterMalformed(f"{where}: expected an object, found {type(content).__name__}")
    return content
