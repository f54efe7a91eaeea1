"""A word problem with one operation -> the equation and its result."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots
from demo.generator.skills.vocabulary import FIRST_NAMES

_THINGS = (
    "apples", "pens", "books", "marbles", "eggs", "coins", "stamps", "cards", "cookies",
    "shells", "tickets", "balloons", "stickers", "oranges", "candles", "buttons", "nails", "cups",
)  # fmt: skip
_HOLDERS = ("boxes", "bags", "baskets", "shelves", "jars", "trays", "crates", "packs")


def _names(rng: Random) -> dict[str, str]:
    first, second = rng.sample(FIRST_NAMES, 2)
    return {
        "name": first,
        "friend": second,
        "things": rng.choice(_THINGS),
        "holders": rng.choice(_HOLDERS),
    }


def _sum(rng: Random) -> Slots:
    a, b = rng.randint(2, 20), rng.randint(2, 10)
    return {**_names(rng), "a": str(a), "b": str(b), "c": str(a + b)}


def _difference(rng: Random) -> Slots:
    a = rng.randint(6, 20)
    b = rng.randint(2, min(a - 1, 10))
    return {**_names(rng), "a": str(a), "b": str(b), "c": str(a - b)}


def _product(rng: Random) -> Slots:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return {**_names(rng), "a": str(a), "b": str(b), "c": str(a * b)}


SKILL = Skill(
    name="equations",
    description="Solves a word problem with one operation by writing its equation.",
    intents=(
        Intent(
            train=(
                "{name} has {a} {things} and buys {b} more. How many now?",
                "{name} had {a} {things} and found {b} more. How many in all?",
                "{friend} gives {name} {b} {things} on top of {a}. How many now?",
                "There are {a} {things} here and {b} there. How many together?",
                "{name} has {a} {things}, {friend} has {b}. How many together?",
                "{name} picks {a} {things} and then {b} more. What is the total?",
            ),
            heldout=(
                "{name} owns {a} {things} and gets {b} more. How many in all?",
                "{name} bought {a} {things} and {friend} bought {b}. How many together?",
                "{name} finds {a} {things} and later {b} more. What is the total?",
            ),
            fill=_sum,
            answer="{a} + {b} = {c}",
        ),
        Intent(
            train=(
                "{name} had {a} {things} and lost {b}. How many are left?",
                "{name} has {a} {things} and gives {b} to {friend}. How many remain?",
                "There were {a} {things} and {b} broke. How many are left?",
                "{name} sells {b} of {a} {things}. How many remain?",
                "From {a} {things}, {friend} takes {b}. How many are left?",
                "{name} had {a} {things} and used {b}. What is left?",
            ),
            heldout=(
                "{name} has {a} {things} and loses {b}. How many remain?",
                "{name} had {a} {things} and gave {b} away. How many are left?",
                "There are {a} {things} and {friend} takes {b}. What is left?",
            ),
            fill=_difference,
            answer="{a} - {b} = {c}",
        ),
        Intent(
            train=(
                "{name} has {a} {holders} with {b} {things} each. How many {things}?",
                "There are {a} {holders} of {b} {things} each. How many {things}?",
                "{a} {holders} hold {b} {things} each. How many in all?",
                "{name} buys {a} {holders}, each with {b} {things}. How many {things}?",
                "Each of {a} {holders} has {b} {things}. What is the total?",
            ),
            heldout=(
                "{name} fills {a} {holders} with {b} {things} each. How many in all?",
                "There are {a} {holders}, each with {b} {things}. What is the total?",
                "{name} has {a} {holders} and each holds {b} {things}. How many {things}?",
            ),
            fill=_product,
            answer="{a} * {b} = {c}",
        ),
    ),
)
