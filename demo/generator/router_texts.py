"""Texts that the demo's router is trained on: of each skill, of none, and follow-ups.

The adapters' own templates are a part; the rest is closer to what people write: patterns over wide
vocabularies (``texts``), other languages, small talk around a request, typing errors, and for the
base everything that speaks of a skill's matters and wants something else.
"""

from collections.abc import Sequence
from random import Random

from demo.generator.datasets import generate
from demo.generator.near_copies import NearCopies
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.texts.patterns import Patterns, read_by_label, read_patterns
from training.dlp.open_prompts import OPEN_PROMPTS

FOLLOW_UP = "follow-up"
"""Label of turns that continue the turn before."""

TEMPLATES, PATTERNS, LANGUAGES = 900, 2700, 350
BASE_TEMPLATES, BASE_PATTERNS, NEAR_MISSES, BASE_LANGUAGES = 800, 4200, 4200, 1400
BASE_LINE_COPIES, OPEN_PROMPT_COPIES = 4, 3
FOLLOW_UPS = 4000
_WRAPPED = 0.25
_FOLLOW_UP_WRAPPED = 0.05
_MISTYPED = 0.12


def router_texts(seed: int, held_back: Sequence[str] = ()) -> dict[str, list[str]]:
    """Make texts by label, the same for the same arguments.

    A label is a skill, the base's or `FOLLOW_UP`. Near copies of `held_back` are left out: the
    texts that the router is measured on.
    """
    copies = NearCopies(held_back)
    return {
        label: [text for text in texts if not copies.of(text)]
        for label, texts in _all_texts(seed).items()
    }


def _all_texts(seed: int) -> dict[str, list[str]]:
    wrappers = read_patterns("wrappers.txt")
    languages = read_by_label("languages.txt")
    texts = {}
    for skill in SKILLS:
        rng = Random(f"{seed}/router/{skill}")
        drawn = [example.prompt for example in generate(skill, "train", TEMPLATES, seed)]
        drawn += _draw(rng, read_patterns(f"{skill}.txt"), PATTERNS)
        drawn += _draw(rng, languages[skill], LANGUAGES)
        texts[skill] = [_untidy(rng, wrappers, text, _WRAPPED) for text in drawn]
    rng = Random(f"{seed}/router/{GENERAL.name}")
    drawn = [e.prompt for e in generate(GENERAL.name, "train", BASE_TEMPLATES, seed)]
    drawn += _draw(rng, read_patterns("base.txt"), BASE_PATTERNS)
    for file in ("near_misses.txt", "near_misses_more.txt"):
        drawn += _draw(rng, read_patterns(file), NEAR_MISSES)
    drawn += _draw(rng, languages["base"], BASE_LANGUAGES)
    drawn += [*read_patterns("base_lines.txt").lines] * BASE_LINE_COPIES
    drawn += OPEN_PROMPTS * OPEN_PROMPT_COPIES
    texts[GENERAL.name] = [_untidy(rng, wrappers, text, _WRAPPED) for text in drawn]
    rng = Random(f"{seed}/router/{FOLLOW_UP}")
    drawn = _draw(rng, read_patterns("follow_ups.txt"), FOLLOW_UPS)
    texts[FOLLOW_UP] = [_untidy(rng, wrappers, text, _FOLLOW_UP_WRAPPED) for text in drawn]
    return texts


def _draw(rng: Random, patterns: Patterns, n: int) -> list[str]:
    return [patterns.draw(rng) for _ in range(n)]


def _untidy(rng: Random, wrappers: Patterns, text: str, wrapped: float) -> str:
    """Make the text untidy as people type it: with words around it, in lower case, mistyped."""
    if rng.random() < wrapped:
        text = wrappers.draw(rng).replace("{}", text)
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    if rng.random() < _MISTYPED:
        text = _mistype(rng, text)
    return text


def _mistype(rng: Random, text: str) -> str:
    """Swap two neighbouring letters of a longer word, or drop one."""
    places = [
        at
        for at in range(1, len(text) - 2)
        if text[at - 1 : at + 3].isalpha() and text[at] != text[at + 1]
    ]
    if not places:
        return text
    at = rng.choice(places)
    middle = text[at + 1] + text[at] if rng.random() < 0.5 else text[at + 1]
    return text[:at] + middle + text[at + 2 :]
