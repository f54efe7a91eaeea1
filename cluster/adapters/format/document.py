"""Reads JSON documents and texts of an adapter's folder, with a bound on their size."""

import json
from pathlib import Path
from typing import Any

from cluster.adapters.format.shown import shown_name
from cluster.errors import AdapterMalformed
from cluster.repeated import repeated

MAX_DOCUMENT_BYTES = 2**20
LFS_POINTER = b"version https://git-lfs"
LFS_ADVICE = "a Git LFS pointer in place of the file; run `git lfs pull` and add it again"


def read_document(path: Path, limit: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Read the object in a JSON file of at most ``limit`` bytes.

    Raises:
        AdapterMalformed: it cannot be read, is too long, not JSON, or not an object; or a key
            appears twice, so that its value is ambiguous.
    """
    return parse_object(_read(path, limit), str(path))


def read_text(path: Path, limit: int) -> str:
    """Read a UTF-8 text of at most ``limit`` bytes.

    Raises:
        AdapterMalformed: it cannot be read, is too long or not UTF-8.
    """
    try:
        return _read(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise AdapterMalformed(f"{path}: expected UTF-8, found other bytes") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise AdapterMalformed(f"{path}: cannot be read: {error.strerror}") from error
    if raw.startswith(LFS_POINTER):
        raise AdapterMalformed(f"{path}: {LFS_ADVICE}")
    if len(raw) > limit:
        raise AdapterMalformed(f"{path}: expected at most {limit} bytes, found more")
    return raw


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object in which every key appears once.

    Raises:
        AdapterMalformed: as ``read_document``; messages begin with ``where``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = [shown_name(name) for name in repeated(name for name, _ in pairs)]
            raise AdapterMalformed(f"{where}: named more than once: {', '.join(twice[:2])}")
        return found

    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AdapterMalformed(f"{where}: not JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise AdapterMalformed(f"{where}: expected an object, found {type(content).__name__}")
    return content
