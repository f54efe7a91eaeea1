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

from cluster.errors import TrainingDataError
from router_service.artifacts.router_artifact import BASE_ALIAS
from training.jsonl import read_records

FOLLOW_UP = "\N{HORIZONTAL ELLIPSIS}"
"""Label of texts that continue the turn before them; no adapter can have this name."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One text and the alias that should answer it; "" is the base. See also `FOLLOW_UP`."""

    text: str
    label: str


def read_labelled(
    path: Path, base_label: str | None, follow_up_label: str | None = None
) -> list[LabelledText]:
    """Read every example of a file or a folder, in order; blank lines are skipped.

    Raises:
        TrainingDataError: unreadable, empty, or a line with a wrong or unknown field. The message
            has file, line and field.
    """
    names = {base_label: BASE_ALIAS, follow_up_label: FOLLOW_UP}
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise TrainingDataError(f"{path}: has no .jsonl files")
        return [
            LabelledText(text, names.get(label, label))
            for file in files
            for label in (file.name.removesuffix(".jsonl"),)
            for (text,) in read_records(file, ("prompt",), exact=False)
        ]
    return [
        LabelledText(text, names.get(label, label))
        for text, label in read_records(path, ("text", "label"), exact=True)
    ]


def digest_labelled(examples: Iterable[LabelledText]) -> str:
    """Compute the sha256 (hex) over the examples in order, for any form of their files."""
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
