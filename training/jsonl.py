"""Prompt and completion pairs as JSON lines: `{"prompt": "...", "completion": "..."}`."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import TrainingDataError

_FIELDS = ("prompt", "completion")


@dataclass(frozen=True)
class Example:
    """One prompt and the one answer that counts as right."""

    prompt: str
    completion: str


def read_examples(path: Path) -> list[Example]:
    """Read every line of a JSONL file, in order; blank lines are skipped.

    Raises:
        TrainingDataError: the file cannot be read, is empty, or a line is not an object of exactly
            two non-empty strings. The message has file, line and field.
    """
    return [Example(*record) for record in read_records(path, _FIELDS, exact=True)]


def read_records(path: Path, fields: tuple[str, ...], *, exact: bool) -> list[tuple[str, ...]]:
    """Read the values of ``fields``, in their order, of every line; empty lines are skipped.

    Args:
        fields: required; each must be a string that is not blank.
        exact: other fields are errors.

    Raises:
        TrainingDataError: names file, line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingDataError(f"{path}: cannot be read: {error}") from error
    records = [
        _parse(f"{path}:{number}", line, fields, exact=exact)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not records:
        raise TrainingDataError(f"{path}: has no examples")
    return records


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write one object per line, replacing the file."""
    lines = (
        json.dumps({"prompt": e.prompt, "completion": e.completion}, ensure_ascii=False) + "\n"
        for e in examples
    )
    path.write_text("".join(lines), encoding="utf-8")


def digest_examples(examples: Iterable[Example]) -> str:
    """Compute the sha256 (hex) over the pairs in order, for any spacing of the file."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.prompt, example.completion]).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def check_text(where: str, record: object) -> None:
    """Raise TrainingDataError if a string of a line, or a name, is not text.

    JSON allows half of a surrogate pair, which no encoding has and no tokenizer takes.
    """
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise TrainingDataError(
            f"{where}: expected text, found {half}, half of a surrogate pair"
        ) from error


def parse_object(where: str, line: str) -> dict[str, Any]:
    """Parse one line into a JSON object whose strings are text.

    Raises:
        TrainingDataError: it is not one; the message opens with ``where``.
    """
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingDataError(
            f"{where}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    check_text(where, record)
    if not isinstance(record, dict):
        raise TrainingDataError(f"{where}: must be an object, found {type(record).__name__}")
    return record


def _parse(where: str, line: str, fields: tuple[str, ...], *, exact: bool) -> tuple[str, ...]:
    record = parse_object(where, line)
    for field in fields:
        if field not in record:
            raise TrainingDataError(f"{where}:{field}: missing")
        if not isinstance(record[field], str):
            found = type(record[field]).__name__
            raise TrainingDataError(f"{where}:{field}: must be a string, found {found}")
        if not record[field].strip():
            raise TrainingDataError(f"{where}:{field}: is empty")
    unknown = [field for field in record if field not in fields]
    if exact and unknown:
        raise TrainingDataError(f"{where}:{unknown[0]}: unknown field")
    return tuple(record[field] for field in fields)
