"""Skills, formats, and the composites: a skill whose answers are wanted in a format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from demo.generator.datasets import generate
from demo.generator.skills import SKILLS
from experiments.flow.formats import FORMATS, opened
from training.evaluation.answer_metrics import has_value, is_exact
from training.evaluation.records import Record, read_eval_records
from training.jsonl import Example

_DRAWN = {"train": 400, "heldout": 200}
"""Examples of a generated skill that everything is taken from."""
_LONGEST_PROMPT = 200
"""Characters of a training prompt of a real skill; held-out ones are taken as they are."""
_SEED_OFFSET = 1000
"""The few examples of a composition are not among an adapter's training examples."""


@dataclass(frozen=True)
class Composite:
    """A skill in a format; no adapter ever sees an example of it."""

    skill: str
    format: str

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"{self.skill} in {self.format}"

    def right(self, record: Record, answered: str) -> bool:
        """Check if an answer has both: the skill's content, and the format."""
        if isinstance(record.answer, int | float):
            inner = opened(self.format, answered.strip())
            return inner is not None and has_value(inner, record.answer)
        return is_exact(answered, record.completion)


COMPOSITES = {
    c.name: c
    for c in (
        Composite("mawps", "envelope"),
        Composite("equations", "envelope"),
        Composite("equations", "german"),
        Composite("mawps", "german"),
        Composite("tickets", "german"),
        Composite("tickets", "capitals"),
        Composite("json", "words"),
    )
}

FORMAT_SKILLS: dict[str, tuple[str, ...]] = {
    "envelope": ("cron", "dates", "shell", "sql", "tickets"),
    "german": ("cron", "dates", "shell", "sql"),
    "words": ("cron", "equations", "shell", "sql"),
    "capitals": ("json", "shell", "sql"),
}
"""Skills that a format's adapter is trained on: others than the one that it is composed with."""


def skill_examples(skill: str, n: int, seed: int, data: Path | None) -> list[Example]:
    """Generate training examples of a skill, in its own form.

    Raises:
        FileNotFoundError: the skill is a real one, and the folder of data sets is missing.
    """
    return [Example(r.prompt, r.completion) for r in _records(skill, "train", seed, data)[:n]]


def format_examples(name: str, n: int, seed: int) -> list[Example]:
    """Generate training examples of a format: answers of several skills, in the format."""
    return [Example(r.prompt, r.completion) for r in _format_records(name, "train", n, seed)]


def format_tests(name: str, n: int) -> list[Record]:
    """Generate held-out prompts of the skills that a format was trained on, with answers in it."""
    return _format_records(name, "heldout", n, 0)


def skill_tests(skill: str, n: int, data: Path | None) -> list[Record]:
    """Generate a skill's held-out prompts, with answers in its own form."""
    return _records(skill, "heldout", 0, data)[:n]


def composite_examples(task: Composite, n: int, seed: int, data: Path | None) -> list[Example]:
    """Draw the few examples of the composition, another draw for each seed."""
    records = _formatted(_records(task.skill, "train", seed + _SEED_OFFSET, data), task.format)
    return [Example(r.prompt, r.completion) for r in records[:n]]


def composite_tests(task: Composite, n: int, data: Path | None) -> list[Record]:
    """Generate prompts of the skill's own held-out split, with the composite answer."""
    return _formatted(_records(task.skill, "heldout", 0, data), task.format)[:n]


def _format_records(name: str, split: str, n: int, seed: int) -> list[Record]:
    skills = FORMAT_SKILLS[name]
    records = [
        record
        for skill in skills
        for record in _formatted(_records(skill, split, seed, None), name)[: n // len(skills)]
    ]
    Random(f"{seed}/{name}").shuffle(records)
    return records


def _formatted(records: Sequence[Record], name: str) -> list[Record]:
    """Format the answers; answers that the format leaves unchanged are left out."""
    written = [(r, FORMATS[name](r.completion)) for r in records]
    return [Record(r.prompt, text, r.answer) for r, text in written if text != r.completion]


def _records(skill: str, split: str, seed: int, data: Path | None) -> list[Record]:
    if skill in SKILLS:
        found = generate(skill, split, _DRAWN[split], seed)  # type: ignore[arg-type]
        return [Record(e.prompt, e.completion) for e in found]
    if data is None:
        raise FileNotFoundError(f"{skill}: needs the folder of data sets")
    if split == "heldout":
        return read_eval_records(data / skill / "test.jsonl")
    records = read_eval_records(data / skill / "train.jsonl")
    records = [r for r in records if len(r.prompt) <= _LONGEST_PROMPT]
    Random(f"{seed}/{skill}").shuffle(records)
    return records
