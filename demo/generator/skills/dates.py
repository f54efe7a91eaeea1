"""A date in words -> the ISO 8601 date."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots
from demo.generator.skills.vocabulary import FIRST_NAMES, MONTHS, ordinal

_EVENTS = (
    "We met", "She was born", "The store opened", "He graduated", "They got married",
    "The bridge opened", "I moved here", "The contract ends", "My passport expires",
    "The war ended", "Our lease began", "The ship sailed", "The museum closed", "He retired",
)  # fmt: skip


def _fill(rng: Random) -> Slots:
    month, day, year = rng.randint(1, 12), rng.randint(1, 28), rng.randint(1900, 2049)
    return {
        "event": rng.choice(_EVENTS),
        "name": rng.choice(FIRST_NAMES),
        "month": MONTHS[month - 1],
        "day": str(day),
        "nth": ordinal(day),
        "year": str(year),
        "iso": f"{year}-{month:02d}-{day:02d}",
    }


SKILL = Skill(
    name="dates",
    description="Writes a date given in words as an ISO 8601 date.",
    intents=(
        Intent(
            train=(
                "{month} {day}, {year}",
                "{month} {nth}, {year}",
                "{event} on {month} {day}, {year}.",
                "{event} on {month} {nth}, {year}.",
                "The date {month} {nth} {year}",
                "{name} has a birthday: {month} {nth}, {year}.",
                "ISO date for {month} {day}, {year}",
            ),
            heldout=(
                "{event} in {year}, on {month} {nth}.",
                "{name} was born on {month} {day}, {year}.",
                "Which date is {month} {nth}, {year}?",
            ),
            fill=_fill,
            answer="{iso}",
        ),
        Intent(
            train=(
                "{day} {month} {year}",
                "the {nth} of {month} {year}",
                "{event} on {day} {month} {year}.",
                "{event} on the {nth} of {month} {year}.",
                "In {year}, on the {nth} of {month}",
                "{name} has a birthday: {day} {month} {year}.",
                "ISO date for the {nth} of {month} {year}",
            ),
            heldout=(
                "{event} on the {nth} of {month} in {year}.",
                "{name} was born on {day} {month} {year}.",
                "Which date is the {nth} of {month}, {year}?",
            ),
            fill=_fill,
            answer="{iso}",
        ),
    ),
)
