"""Values as operators write them: durations, shares and numbers, each read strictly.

``yes`` and ``true`` are no numbers, and infinity and NaN are no values, wherever they stand.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


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
            return float(found[1]) / 100.0
    return _number(value, 'a share such as 0.02 or "2%"')


def read_number(value: object) -> float:
    """Read a finite number."""
    return _number(value, "a number")


def read_count(value: object) -> int:
    """Read a whole number."""
    number = _number(value, "a whole number")
    if number != int(number):
        raise ValueError(f"must be a whole number, not {value!r}")
    return int(number)


def _number(value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be {expected}, not {value!r}")
    try:
        return _finite(float(value), value)
    except OverflowError:
        raise ValueError(f"must be finite, not {value!r}") from None


def _finite(number: float, value: object) -> float:
    if not math.isfinite(number):
        raise ValueError(f"must be finite, not {value!r}")
    return number


Seconds = Annotated[float, BeforeValidator(read_seconds)]
Share = Annotated[float, BeforeValidator(read_share)]
Number = Annotated[float, BeforeValidator(read_number)]
Count = Annotated[int, BeforeValidator(read_count)]
