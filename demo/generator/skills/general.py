"""Prompts that need no skill: small talk and open questions, for the router's "base" class.

Some of them use the skills' own words (a database, a Monday, an invoice) without asking for the
skill, so that single words do not give a prompt away.
"""

from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots
from demo.generator.skills.vocabulary import CITIES, FIRST_NAMES, MONTHS, WEEKDAYS

_TOPICS = (
    "the ocean", "black holes", "jazz music", "old castles", "volcanoes", "friendship", "coffee",
    "the Roman Empire", "databases", "honey bees", "chess", "climate change", "poetry", "robots",
    "the moon", "running", "tea", "happiness", "dinosaurs", "bicycles", "the internet", "sleep",
    "cooking", "mountains", "whales", "photography", "money", "trains", "gardening", "dreams",
    "electric cars", "the stock market", "operating systems", "calendars", "online shopping",
    "mathematics", "chocolate", "football", "rain", "painting", "history", "space travel",
)  # fmt: skip
_THINGS = (
    "my cat", "a small bakery", "a science club", "my new boat", "a travel blog", "a book club",
    "our team", "a coffee shop", "my puppy", "a short film", "a rock band", "a podcast",
)  # fmt: skip
_ACTIVITIES = (
    "learn French", "cook rice", "sleep better", "make friends", "bake bread", "draw a horse",
    "save money", "study for an exam", "grow tomatoes", "write a poem", "plan a trip",
    "stay calm", "learn to swim", "fix a bike", "tie a tie", "tell a good joke", "read faster",
    "clean a carpet", "learn programming", "wake up early", "talk to my boss", "make pasta",
)  # fmt: skip
_FEELINGS = ("tired", "happy", "bored", "nervous", "lonely", "curious", "hungry", "proud", "sad")


def _fill(rng: Random) -> Slots:
    first, second = rng.sample(_TOPICS, 2)
    return {
        "topic": first,
        "other": second,
        "thing": rng.choice(_THINGS),
        "activity": rng.choice(_ACTIVITIES),
        "feeling": rng.choice(_FEELINGS),
        "city": rng.choice(CITIES),
        "name": rng.choice(FIRST_NAMES),
        "day": rng.choice(WEEKDAYS),
        "month": rng.choice(MONTHS),
    }


def _intent(train: tuple[str, ...], heldout: tuple[str, ...]) -> Intent:
    return Intent(train=train, heldout=heldout, fill=_fill, answer="")


SKILL = Skill(
    name="general",
    description="Small talk and open questions that the base model answers by itself.",
    intents=(
        _intent(
            (
                "Tell me something about {topic}.",
                "What do you think about {topic}?",
                "Why do people like {topic}?",
                "Explain {topic} to a child.",
                "Write a short poem about {topic}.",
                "What is the difference between {topic} and {other}?",
                "Can you tell me a fun fact about {topic}?",
                "Who knows the most about {topic}?",
                "What should I read about {topic}?",
            ),
            (
                "Write a few sentences on {topic}.",
                "What makes {topic} so interesting?",
                "Which is better, {topic} or {other}?",
                "Tell me a story about {topic}.",
            ),
        ),
        _intent(
            (
                "How can I {activity}?",
                "What is the best way to {activity}?",
                "I want to {activity}. Where do I start?",
                "Give me some tips to {activity} in {month}.",
                "Is it hard to {activity}?",
                "Why should I {activity}?",
                "My friend {name} wants to {activity}. Any advice?",
            ),
            (
                "Can you help me to {activity}?",
                "How long does it take to {activity}?",
                "What do I need to {activity}?",
            ),
        ),
        _intent(
            (
                "Hello, how are you this {day}?",
                "Good morning! I am {feeling} today.",
                "Hi, my name is {name}. What is yours?",
                "I feel {feeling}. Any ideas for {day}?",
                "Who are you?",
                "Do you like {city}?",
                "Thanks, you helped me and {name} a lot.",
                "I was in {city} with {name} last {month}.",
                "What can you do for me on a {day}?",
            ),
            (
                "Hey there, I am {name} and I feel {feeling}.",
                "How was your {day}?",
                "Why am I so {feeling} on a {day}?",
                "Have you ever been to {city}?",
            ),
        ),
        _intent(
            (
                "What is a good name for {thing}?",
                "Suggest a slogan for {thing} in {city}.",
                "I am starting {thing} with {name}. What should I think of?",
                "What should I see in {city}?",
                "What is the weather like in {city} in {month}?",
                "What is {city} famous for?",
                "Name three reasons to visit {city} in {month}.",
                "Write a birthday message for {name}.",
            ),
            (
                "Give me ideas for {thing}.",
                "Is {city} nice in {month}?",
                "What food do people eat in {city}?",
                "Write a letter to {name} about {thing}.",
            ),
        ),
    ),
)
