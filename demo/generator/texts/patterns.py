"""Patterns of texts and their expansion from a seeded generator."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent
VOCABULARY = "vocabulary.txt"

_SLOT = re.compile(r"\{([a-z]+)\}")
_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_SLOT_LINE = re.compile(r"(?:slot )?([a-z]+): (.*)")
_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio][a-z])")


@dataclass(frozen=True)
class Patterns:
    """Patterns of one file, with the slots that they may name."""

    lines: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def draw(self, rng: Random) -> str:
        """Draw one text: a line, then a choice for each bracket and slot, all uniformly."""
        return self.expand(rng, rng.choice(self.lines))

    def expand(self, rng: Random, pattern: str) -> str:
        """Expand a pattern to one text, with single spaces and `an` before vowels.

        Raises:
            KeyError: it names an unknown slot.
        """
        text = pattern
        while "[" in text or _SLOT.search(text):
            if innermost := _INNERMOST.search(text):
                choice = rng.choice(innermost[1].split("|"))
                text = f"{text[: innermost.start()]}{choice}{text[innermost.end() :]}"
            else:
                text = _SLOT.sub(lambda slot: rng.choice(self.slots[slot[1]]), text)
        tidy = re.sub(r" +([,.?!]) *(?= |$)", r"\1", " ".join(text.split()))
        return _BEFORE_VOWEL.sub(r"\1n ", tidy)


def read_patterns(name: str) -> Patterns:
    """Read the patterns of a file of this folder, with the vocabulary's slots and its own."""
    slots = dict(_slots(_lines(VOCABULARY)))
    own = [line for line in _lines(name) if line.startswith("slot ")]
    slots.update(_slots(own))
    return Patterns(tuple(line for line in _lines(name) if not line.startswith("slot ")), slots)


def read_by_label(name: str) -> dict[str, Patterns]:
    """Read the patterns of a file whose lines begin with their label, by label."""
    every = read_patterns(name)
    by_label: dict[str, list[str]] = {}
    for line in every.lines:
        label, _, pattern = line.partition(": ")
        by_label.setdefault(label, []).append(pattern)
    return {label: Patterns(tuple(lines), every.slots) for label, lines in by_label.items()}


def _lines(name: str) -> list[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _slots(lines: Iterable[str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    for line in lines:
        match = _SLOT_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{line[:60]!r} is not a slot with its values")
        yield match[1], tuple(match[2].split(" | "))
