"""A support message -> the queue it belongs to and its priority."""

from itertools import product
from random import Random

from demo.generator.skills.templates import Intent, Skill, Slots, Split

_PRODUCTS = (
    "kettle", "headphones", "printer", "camera", "tablet", "router", "speaker", "keyboard",
    "heater", "vacuum", "blender", "monitor", "drill", "phone", "watch", "toaster",
)  # fmt: skip
# What a message is about, told in train and held-out wordings that share no sentence.
_ISSUES: dict[str, dict[Split, tuple[str, ...]]] = {
    "billing": {
        "train": (
            "I was charged twice for order {order}.",
            "My invoice {order} shows the wrong amount.",
            "The refund for my {product} has not been paid.",
            "You billed my old card for the {product}.",
            "There is a fee on invoice {order} I do not know.",
            "My payment for order {order} was declined.",
            "I need a receipt for the {product} I paid for.",
        ),
        "heldout": (
            "The amount on my invoice for the {product} is wrong.",
            "I paid twice and want a refund for order {order}.",
            "My card was charged for a {product} I never bought.",
        ),
    },
    "shipping": {
        "train": (
            "My {product} has not arrived yet.",
            "Where is my package {order}?",
            "The courier left order {order} at the wrong address.",
            "The delivery of my {product} is late.",
            "Parcel {order} has been stuck in customs.",
            "The box with my {product} arrived damaged.",
            "Tracking for order {order} shows nothing.",
        ),
        "heldout": (
            "The parcel with my {product} is late.",
            "Order {order} was delivered to the wrong address.",
            "My package {order} still has not arrived.",
        ),
    },
    "account": {
        "train": (
            "I cannot log in to my account.",
            "I forgot my password for user {order}.",
            "Please change the email of my account {order}.",
            "My account {order} is locked.",
            "How do I delete my profile {order}?",
            "The login code for user {order} never comes.",
            "I want to change my user name from user{order}.",
        ),
        "heldout": (
            "I forgot the password of account {order}.",
            "My login for user {order} is locked.",
            "How can I change the email on my profile {order}?",
        ),
    },
    "technical": {
        "train": (
            "My {product} does not turn on.",
            "The {product} makes a strange noise.",
            "The screen of my {product} stays black.",
            "My {product} keeps crashing after the update.",
            "The {product} shows error {order}.",
            "The app for my {product} freezes.",
            "The battery of my {product} dies in an hour.",
        ),
        "heldout": (
            "My {product} crashes with error {order}.",
            "The {product} does not turn on after the update.",
            "The app freezes and my {product} makes a noise.",
        ),
    },
}
_CUES: dict[str, dict[Split, tuple[str, ...]]] = {
    "high": {
        "train": (
            "This is urgent!",
            "I need help right now.",
            "Please fix it immediately.",
            "Urgent, please answer today.",
            "It is an emergency.",
        ),
        "heldout": ("Please help immediately, it is urgent.", "I need this fixed right now!"),
    },
    "low": {
        "train": (
            "No hurry.",
            "Take your time.",
            "Whenever you have a moment.",
            "It can wait.",
            "This is not important.",
        ),
        "heldout": ("There is no hurry, take your time.", "It is not important and can wait."),
    },
}


_GREETINGS: dict[Split, tuple[str, ...]] = {
    "train": ("", "Hello. ", "Hi there. "),
    "heldout": ("", "Good morning. "),
}
_THANKS: dict[Split, tuple[str, ...]] = {"train": ("", " Thank you."), "heldout": ("", " Thanks.")}


def _wordings(queue: str, priority: str, split: Split) -> tuple[str, ...]:
    """Make every template of one queue and priority: greeting, issue and cue in either order."""
    issues = _ISSUES[queue][split]
    if priority == "normal":
        return tuple(
            f"{greeting}{issue}{thanks}"
            for greeting, issue, thanks in product(_GREETINGS[split], issues, _THANKS[split])
        )
    bodies = [
        body
        for issue, cue in product(issues, _CUES[priority][split])
        for body in (f"{issue} {cue}", f"{cue} {issue}")
    ]
    return tuple(f"{greeting}{body}" for greeting, body in product(_GREETINGS[split], bodies))


def _fill(rng: Random) -> Slots:
    return {"order": str(rng.randint(1000, 9999)), "product": rng.choice(_PRODUCTS)}


SKILL = Skill(
    name="tickets",
    description="Sorts a support message into a queue and gives it a priority.",
    intents=tuple(
        Intent(
            train=_wordings(queue, priority, "train"),
            heldout=_wordings(queue, priority, "heldout"),
            fill=_fill,
            answer=f"queue: {queue} | priority: {priority}",
        )
        for queue in _ISSUES
        for priority in ("high", "normal", "low")
    ),
)
