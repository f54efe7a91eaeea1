"""Values as operators write them: durations, shares and numbers, each read strictly.

``yes`` and ``true`` are refused as numbers, and so are infinity and NaN.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
SHOWN_CHARACTERS = 60

MANY_REPLICAS = 10_000
INSTANT_S = 0.001
DAY_S = 86_400.0


def shown(value: object) -> str:
    """Return a value as it is quoted in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def printable(text: str) -> str:
    """Return a text as one line that a terminal shows: other characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def read_seconds(value: object) -> float:
    """Read a number of seconds, or text such as ``500ms``, ``10s``, ``5m``, ``2h``, ``1d``."""
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found:
            return _finite(float(found[1]) * _SECONDS[found[2]], value)
    return _number(value, 'seconds, or a duration such as "500ms", "10s" or "5m"')


def read_share(value: object) -> float:
    """Read a share of 1, or a percentage such as ``2%``."""
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value.strip())
        if found:
            return _finite(float(found[1]) / 100.0, value)
    return _number(value, 'a share such as 0.02 or "2%"')


def read_number(value: object) -> float:
    """Read a finite number."""
    return _number(value, "a number")


def read_count(value: object) -> int:
    """Read a whole number."""
    number = _number(value, "a whole number")
    if number != int(number):
        raise ValueError(f"must be a whole number, not {shown(value)}")
    return int(number)


def _number(value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be {expected}, not {shown(value)}")
    try:
        return _finite(float(value), value)
    except OverflowError:
        raise ValueError(f"must be finite, not {shown(value)}") from None


def _finite(number: float, value: object) -> float:
    if not math.isfinite(number):
        raise ValueError(f"must be finite, not {shown(value)}")
    return number


Seconds = Annotated[float, BeforeValidator(read_seconds)]
Share = Annotated[float, BeforeValidator(read_share)]
Number = Annotated[float, BeforeValidator(read_number)]
Count = Annotated[int, BeforeValidator(read_count)]

Wait = Annotated[Seconds, Field(ge=0, le=DAY_S)]
"""A time that may be nothing."""
Promised = Annotated[Seconds, Field(ge=INSTANT_S, le=DAY_S)]
"""A time that something takes."""
Replicas = Annotated[Count, Field(ge=0, le=MANY_REPLICAS)]
SomeReplicas = Annotated[Count, Field(ge=1, le=MANY_REPLICAS)]
