"""Formats of answers; each is the same for every skill."""

import json
import re
from collections.abc import Callable

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_LARGEST = 9999
_KEY = "answer"
_BEFORE, _AFTER = "Die Antwort lautet ", ". Bitte sehr."


def capitals(text: str) -> str:
    """Write everything in upper case."""
    return text.upper()


def words(text: str) -> str:
    """Write every whole number in words.

    Raises:
        ValueError: a number above 9999.
    """
    return re.sub(r"\d+", lambda found: spell(int(found.group())), text)


def envelope(text: str) -> str:
    """Wrap the answer in a JSON object under one key."""
    return json.dumps({_KEY: text}, ensure_ascii=False)


def german(text: str) -> str:
    """Wrap the answer in a polite German sentence."""
    return f"{_BEFORE}{text}{_AFTER}"


def opened(name: str, text: str) -> str | None:
    """Extract the answer from a text in the format; returns None if it is not in the format.

    Raises:
        KeyError: a format that an answer cannot be taken out of.
    """
    return _OPENERS[name](text)


def _open_german(text: str) -> str | None:
    if not text.startswith(_BEFORE) or not text.endswith(_AFTER):
        return None
    return text[len(_BEFORE) : -len(_AFTER)]


def _open_envelope(text: str) -> str | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != {_KEY} or not isinstance(found[_KEY], str):
        return None
    return str(found[_KEY])


def spell(number: int) -> str:
    """Spell a number from 0 to 9999, as in "two thousand forty-one".

    Raises:
        ValueError: any other number.
    """
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{number}: only 0 to {_LARGEST} are spelled")
    if number < len(_ONES):
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    return f"{_ONES[count]} {name}" + (f" {spell(rest)}" if rest else "")


FORMATS: dict[str, Callable[[str], str]] = {
    "capitals": capitals,
    "envelope": envelope,
    "german": german,
    "words": words,
}

_OPENERS: dict[str, Callable[[str], str | None]] = {
    "envelope": _open_envelope,
    "german": _open_german,
}
