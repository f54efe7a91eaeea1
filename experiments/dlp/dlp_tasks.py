"""The tasks: the demo's seven skills, general prompts, and real data sets that are at hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from demo.generator.datasets import generate
from demo.generator.skills import GENERAL, SKILLS
from training.dlp.open_prompts import OPEN_PROMPTS
from training.evaluation.records import Record, read_eval_records

_OPEN_PROMPT_COPIES = 4
_OWN_SPLIT_SHARE = 0.2

# What one data set's prompts cannot tell from another's is one task.
REAL_TASKS: dict[str, tuple[str, ...]] = {
    "boolq": ("boolq",),
    "gsm8k": ("gsm8k",),
    "mawps": ("mawps",),
    "piqa": ("piqa",),
    "science": ("arc_challenge", "arc_easy", "openbookqa"),
}


@dataclass(frozen=True)
class DlpTaskData:
    """One task's examples; held-out ones are never trained on."""

    name: str
    train: tuple[Record, ...]
    heldout: tuple[Record, ...]


def load_tasks(
    data: Path | None, *, n_train: int, n_heldout: int, seed: int
) -> tuple[list[DlpTaskData], list[str]]:
    """Load every available task, and list the names of the others.

    Held-out examples are of the data sets' own test splits; a set that has one split only is cut by
    the seed. Skills are held out by template.
    """
    tasks = [_skill(name, n_train, n_heldout, seed) for name in (*SKILLS, GENERAL.name)]
    missing = []
    for name, folders in REAL_TASKS.items():
        if data is None or not all((data / folder).is_dir() for folder in folders):
            missing.append(name)
            continue
        tasks.append(_real(name, [data / f for f in folders], n_train, n_heldout, seed))
    return tasks, missing


def write_router_data(tasks: Sequence[DlpTaskData], folder: Path) -> tuple[Path, Path]:
    """Write one file of prompts per task, into a train and a held-out folder."""
    for split in ("train", "heldout"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for task in tasks:
            prompts = [record.prompt for record in getattr(task, split)]
            if task.name == GENERAL.name and split == "train":
                prompts += OPEN_PROMPTS * _OPEN_PROMPT_COPIES
            lines = (json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in prompts)
            (folder / split / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "train", folder / "heldout"


def _skill(name: str, n_train: int, n_heldout: int, seed: int) -> DlpTaskData:
    def records(split: str, n: int) -> tuple[Record, ...]:
        examples = generate(name, split, n, seed)  # type: ignore[arg-type]
        return tuple(Record(e.prompt, e.completion) for e in examples)

    return DlpTaskData(name, records("train", n_train), records("heldout", n_heldout))


def _real(
    name: str, folders: Sequence[Path], n_train: int, n_heldout: int, seed: int
) -> DlpTaskData:
    train: list[Record] = []
    heldout: list[Record] = []
    for folder in folders:
        files = [folder / "train.jsonl", folder / "test.jsonl"]
        splits = [read_eval_records(file) for file in files if file.is_file()]
        if len(splits) == 1:
            own = splits[0]
            Random(f"split/{folder.name}").shuffle(own)
            cut = round(len(own) * _OWN_SPLIT_SHARE)
            splits = [own[cut:], own[:cut]]
        rng = Random(f"{seed}/{folder.name}")
        train += rng.sample(splits[0], min(len(splits[0]), n_train // len(folders)))
        heldout += rng.sample(splits[1], min(len(splits[1]), n_heldout // len(folders)))
    return DlpTaskData(name, tuple(train), tuple(heldout))
