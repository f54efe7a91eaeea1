"""Labelled texts for a router, in two forms.

One file: `{"text": "...", "label": "<alias>"}` per line. A folder: `<alias>.jsonl` with
`{"prompt": "..."}` per line; other fields (a completion, say) are ignored there, so the files that
adapters were trained on serve as they are.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cluster.errors import TrainingDataError
from router_service.routers.base import BASE_ALIAS


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One text and the alias that should answer it; "" is the base."""

    text: str
    label: str


def read_labelled(path: Path, base_label: str | None) -> list[LabelledText]:
    """Every example of a file or a folder, in order; blank lines are skipped.

    Raises:
        TrainingDataError: unreadable, empty, or a line with a wrong or unknown field. The message
            has file, line and field.
    """
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise TrainingDataError(f"{path}: has no .jsonl files")
        return [
            LabelledText(text, _alias(file.name.removesuffix(".jsonl"), base_label))
            for file in files
            for (text,) in _records(file, ("prompt",), exact=False)
        ]
    return [
        LabelledText(text, _alias(label, base_label))
        for text, label in _records(path, ("text", "label"), exact=True)
    ]


def digest_labelled(examples: Iterable[LabelledText]) -> str:
    """sha256 (hex) over the examples in order, whatever form they were read from."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.text, example.label]).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def split_dev(
    examples: Sequence[LabelledText], share: float, seed: int
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Train and dev examples; of each label, `share` (at least one) goes to dev.

    Raises:
        TrainingDataError: a label has fewer than two examples.
    """
    by_label: dict[str, list[LabelledText]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    train: list[LabelledText] = []
    dev: list[LabelledText] = []
    for label in sorted(by_label):
        group = by_label[label]
        if len(group) < 2:
            raise TrainingDataError(f"label {label!r} has {len(group)} example; 2 are needed")
        Random(f"{seed}/dev/{label}").shuffle(group)
        held = min(len(group) - 1, max(1, round(len(group) * share)))
        dev += group[:held]
        train += group[held:]
    return train, dev


def _alias(label: str, base_label: str | None) -> str:
    return BASE_ALIAS if label == base_label else label


def _records(path: Path, fields: tuple[str, ...], *, exact: bool) -> list[tuple[str, ...]]:
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


def _parse(where: str, line: str, fields: tuple[str, ...], *, exact: bool) -> tuple[str, ...]:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingDataError(
            f"{where}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    if not isinstance(record, dict):
        raise TrainingDataError(f"{where}: must be an object, found {type(record).__name__}")
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
