"""Regular expressions of strangers: what they match, with a bound on the time they take.

An expression such as ``(a|a)*b`` takes the standard library's ``re`` years on a short name, with
the interpreter lock held. The ``regex`` package matches the same language, gives up after a
time, and lets other threads run meanwhile.
"""

from functools import lru_cache
from typing import Any

import regex

from cluster.errors import AdapterMalformed, AdapterUnsupported

MAX_PATTERNS = 2048
MATCH_TIMEOUT_S = 0.1


@lru_cache(maxsize=2 * MAX_PATTERNS)
def compiled(pattern: str) -> Any:
    """The compiled expression.

    Raises:
        AdapterMalformed: it is none.
    """
    try:
        return regex.compile(pattern)
    except (regex.error, ValueError, RecursionError) as error:
        raise AdapterMalformed(f"not a regular expression: {pattern!r}: {error}") from error


def match(pattern: str, text: str) -> Any:
    """``re.match``: the match at the text's start, or None.

    Raises:
        AdapterUnsupported: it takes longer than ``MATCH_TIMEOUT_S``.
    """
    return _timed(compiled(pattern).match, pattern, text)


def matches(pattern: str, text: str) -> bool:
    """Whether all of the text matches.

    Raises:
        AdapterUnsupported: as ``match``.
    """
    return _timed(compiled(pattern).fullmatch, pattern, text) is not None


def _timed(method: Any, pattern: str, text: str) -> Any:
    try:
        return method(text, timeout=MATCH_TIMEOUT_S, concurrent=True)
    except TimeoutError as error:
        raise AdapterUnsupported(
            f"{pattern!r}: expected a pattern that matches {text!r} or not within "
            f"{MATCH_TIMEOUT_S} s, found one that takes longer"
        ) from error
