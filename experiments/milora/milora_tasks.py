"""The data sets in the form that the experiment trains and scores: a question and its answer.

A model of 135 million parameters does not learn to name one of several listed answers by its
number. So the answers are not listed in the prompt: each is scored by its own likelihood.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from training.evaluation.records import Record, read_eval_records

TASKS = ("boolq", "arc_easy", "arc_challenge", "openbookqa", "piqa", "mawps")

_OWN_SPLIT_SHARE = 0.25  # held out of a set that has one split only
_QUESTION = re.compile(
    r"question: (.*?)\s*\n\s*(?:Answer|Solution)1: (.*?)\s*\n\s*Answer format:", re.DOTALL
)
_NEXT_CHOICE = re.compile(r"\s*(?:Answer|Solution)\d+: ")

Tokens = Callable[[Record], int]
"""Tokens of a record's prompt with its longest completion."""


@dataclass(frozen=True)
class MiloraTaskData:
    """One task's examples; test ones are seen once, by the finished adapter."""

    name: str
    metric: Literal["choice", "value"]
    train: tuple[Record, ...]
    test: tuple[Record, ...]
    dropped: int
    """Number of the records looked at that are too long or unreadable."""


def load_task(
    data: Path,
    name: str,
    *,
    n_train: int,
    n_test: int,
    seed: int,
    tokens: Tokens,
    max_train_tokens: int,
    max_test_tokens: int,
) -> MiloraTaskData:
    """Load training examples drawn by the seed, and test examples that are the same for every
    seed."""
    folder = data / name
    files = [folder / "train.jsonl", folder / "test.jsonl"]
    splits = [read_eval_records(file) for file in files if file.is_file()]
    if len(splits) == 1:
        (own,) = splits
        Random(f"split/{name}").shuffle(own)
        cut = round(len(own) * _OWN_SPLIT_SHARE)
        splits = [own[cut:], own[:cut]]
    Random(f"{seed}/{name}").shuffle(splits[0])
    Random(f"test/{name}").shuffle(splits[1])
    train, dropped = _take(splits[0], name, n_train, tokens, max_train_tokens)
    test, more = _take(splits[1], name, n_test, tokens, max_test_tokens)
    metric: Literal["choice", "value"] = "value" if name == "mawps" else "choice"
    return MiloraTaskData(name, metric, train, test, dropped + more)


def write_mixed(tasks: Sequence[MiloraTaskData], path: Path, seed: int) -> None:
    """Write all tasks' training examples into one file, shuffled."""
    records = [record for task in tasks for record in task.train]
    Random(f"{seed}/mixed").shuffle(records)
    lines = (
        json.dumps({"prompt": r.prompt, "completion": r.completion}, ensure_ascii=False) + "\n"
        for r in records
    )
    path.write_text("".join(lines), encoding="utf-8")


def reworded(name: str, record: Record) -> Record | None:
    """Reword the record as it is asked here; returns None if its answers are ambiguous."""
    if name == "mawps":
        try:
            return Record(record.prompt, record.completion, float(str(record.answer)))
        except ValueError:
            return None
    if name == "boolq":
        question = record.prompt.partition("question: ")[2].partition("\n")[0].strip()
        choices: tuple[str, ...] = ("true", "false")
        if not question or record.answer not in choices:
            return None
        return Record(f"True or false: {question}", str(record.answer), choices=choices)
    found = _QUESTION.search(f"{record.prompt}\nAnswer format:")
    if found is None:
        return None
    question = found[1].strip()
    choices = tuple(choice.strip() for choice in _NEXT_CHOICE.split(found[2]))
    right = re.search(r"\d+$", str(record.answer))
    if right is None or not 1 <= int(right[0]) <= len(choices):
        return None
    if not question or not all(choices) or len(set(choices)) < len(choices) or len(choices) < 2:
        return None
    return Record(question, choices[int(right[0]) - 1], choices=choices)


def _take(
    records: Sequence[Record], name: str, n: int, tokens: Tokens, max_tokens: int
) -> tuple[tuple[Record, ...], int]:
    """Take the first ``n`` usable records, and count the unusable ones before the last of them."""
    taken: list[Record] = []
    dropped = 0
    for record in records:
        if len(taken) == n:
            break
        asked = reworded(name, record)
        if asked is None or tokens(asked) > max_tokens:
            dropped += 1
            continue
        taken.append(asked)
    return tuple(taken), dropped
