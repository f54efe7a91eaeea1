"""Reads days and times of a week as operators write them."""

import difflib
import re
import zoneinfo
from datetime import UTC, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")


def days_of(text: str) -> frozenset[int]:
    """Read days such as ``mon-fri`` or ``sat,sun``; Monday is 0, and ``fri-mon`` passes Sunday.

    Raises:
        ValueError: a word is not a day.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip().lower() for word in part.partition("-"))
        begin = _day(first)
        end = _day(last) if dash else begin
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def minute_of(text: object) -> int:
    """Read a time such as ``07:30`` as minutes since midnight; ``24:00`` ends a day.

    Raises:
        ValueError: it is not a time of the day.
    """
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    minute = int(found[1]) * 60 + int(found[2]) if found else 24 * 60 + 1
    if minute > 24 * 60:
        raise ValueError(f'must be a time in quotes such as "07:30", not {text!r}')
    return minute


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name; ``UTC`` needs no data of the machine.

    Raises:
        ValueError: there is no such zone; the message names the nearest.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        close = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1, cutoff=0.6)
    hint = f'did you mean "{close[0]}"?' if close else 'give a name such as "Europe/Berlin"'
    raise ValueError(f"{name!r} is not a time zone of this machine; {hint}")


def _day(word: str) -> int:
    if word in DAYS:
        return DAYS.index(word)
    close = difflib.get_close_matches(word, DAYS, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else f"give some of {', '.join(DAYS)}"
    raise ValueError(f"{word!r} is not a day; {hint}")
