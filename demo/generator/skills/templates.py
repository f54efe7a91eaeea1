"""Form of a demo skill: intents with templates, slots and an answer.

Held-out examples come from templates that training never sees, so a score on them measures the
skill and not the memory of a wording.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from training.jsonl import Example

Split = Literal["train", "heldout"]
Slots = Mapping[str, str]


@dataclass(frozen=True)
class Intent:
    """One kind of request within a skill.

    `train` and `heldout` are format strings over the slots that `fill` draws; `answer` is a format
    string over the same slots.
    """

    train: tuple[str, ...]
    heldout: tuple[str, ...]
    fill: Callable[[Random], Slots]
    answer: str

    def templates(self, split: Split) -> tuple[str, ...]:
        """Return the prompt templates of one split."""
        return self.train if split == "train" else self.heldout


@dataclass(frozen=True)
class Skill:
    """A named set of intents; `description` goes into the adapter's manifest."""

    name: str
    description: str
    intents: tuple[Intent, ...]

    def draw(self, rng: Random, split: Split) -> Example:
        """Draw one example, uniformly over intents, then over that intent's templates."""
        intent = rng.choice(self.intents)
        template = rng.choice(intent.templates(split))
        slots = intent.fill(rng)
        prompt = _vary(rng, template, template.format_map(slots))
        return Example(prompt=prompt, completion=intent.answer.format_map(slots))


def _vary(rng: Random, template: str, prompt: str) -> str:
    """Vary the small untidiness of typed text: a missing full stop, a lower-case start.

    A start that comes out of a slot (a name, say) keeps its case, because the answer may repeat it.
    """
    if prompt.endswith(".") and rng.random() < 0.3:
        prompt = prompt[:-1]
    if not template.startswith("{") and rng.random() < 0.25:
        prompt = prompt[0].lower() + prompt[1:]
    return prompt
