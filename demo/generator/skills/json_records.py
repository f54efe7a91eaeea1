"""A sentence about a person, a product or a meeting -> one JSON record."""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots
from demo.generator.skills.vocabulary import CITIES, FIRST_NAMES, LAST_NAMES, WEEKDAYS

_JOBS = (
    "nurse", "teacher", "pilot", "baker", "lawyer", "chef", "painter", "farmer", "dentist",
    "plumber", "driver", "writer", "singer", "engineer", "florist", "tailor",
)  # fmt: skip
_ITEMS = (
    "kettle", "lamp", "chair", "jacket", "bicycle", "backpack", "teapot", "scarf", "sofa",
    "blanket", "guitar", "mirror", "vase", "helmet", "umbrella", "wallet", "clock", "rug",
)  # fmt: skip
_COLORS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown", "pink", "purple")


def _person(rng: Random) -> Slots:
    return {
        "name": f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        "age": str(rng.randint(19, 79)),
        "job": rng.choice(_JOBS),
        "city": rng.choice(CITIES),
    }


def _product(rng: Random) -> Slots:
    return {
        "item": rng.choice(_ITEMS),
        "color": rng.choice(_COLORS),
        "price": str(rng.randint(5, 250)),
    }


def _meeting(rng: Random) -> Slots:
    return {
        "who": rng.choice(FIRST_NAMES),
        "day": rng.choice(WEEKDAYS),
        "city": rng.choice(CITIES),
    }


SKILL = Skill(
    name="json",
    description="Extracts the facts of a sentence into one JSON record.",
    intents=(
        Intent(
            train=(
                "As JSON: {name}, {age}, is a {job} from {city}.",
                "Extract the record: {name} is {age} and works as a {job} in {city}.",
                "Turn this into JSON: the {job} {name} ({age}) lives in {city}.",
                "JSON for: {name} from {city}, {age} years old, {job}.",
                "{name} is a {age} year old {job} in {city}. JSON, please.",
                "Convert to JSON: in {city} lives {name}, a {job} aged {age}.",
            ),
            heldout=(
                "Make a JSON record: {name} ({age}) works in {city} as a {job}.",
                "Write as JSON: {name}, aged {age}, is a {job} living in {city}.",
                "Give me JSON for this: {name} from {city} is {age}, a {job}.",
            ),
            fill=_person,
            answer='{{"name": "{name}", "age": {age}, "job": "{job}", "city": "{city}"}}',
        ),
        Intent(
            train=(
                "As JSON: a {color} {item} for {price} dollars.",
                "Extract the record: we sell a {color} {item} at {price} dollars.",
                "Turn this into JSON: the {item} is {color} and costs ${price}.",
                "JSON for: {item}, {color}, {price} dollars.",
                "The {color} {item} costs {price} dollars. JSON, please.",
                "Convert to JSON: for ${price} you get this {color} {item}.",
            ),
            heldout=(
                "Make a JSON record: our {color} {item} costs {price} dollars.",
                "Write as JSON: {price} dollars for the {color} {item}.",
                "Give me JSON for this: the {item} comes in {color} and sells for ${price}.",
            ),
            fill=_product,
            answer='{{"item": "{item}", "color": "{color}", "price": {price}}}',
        ),
        Intent(
            train=(
                "As JSON: meeting with {who} in {city} on {day}.",
                "Extract the record: on {day} I meet {who} in {city}.",
                "Turn this into JSON: {who} and I meet on {day} in {city}.",
                "JSON for: {day}, {city}, meeting {who}.",
                "I am seeing {who} in {city} this {day}. JSON, please.",
                "Convert to JSON: {who} will meet me in {city} on {day}.",
            ),
            heldout=(
                "Make a JSON record: I will meet {who} on {day} in {city}.",
                "Write as JSON: on {day} there is a meeting with {who} in {city}.",
                "Give me JSON for this: {who} meets me in {city} next {day}.",
            ),
            fill=_meeting,
            answer='{{"meet": "{who}", "day": "{day}", "city": "{city}"}}',
        ),
    ),
)
