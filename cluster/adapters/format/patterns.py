"""Matches untrusted regular expressions, with a bound on the time they take.

An expression such as ``(a|a)*b`` takes the standard library's ``re`` years on a short name, with
the interpreter lock held. The ``regex`` package matches the same language, gives up after a
time, and lets other threads run meanwhile. Expressions that the two read differently are refused:
PEFT reads them by ``re``.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import regex

from cluster.adapters.format.shown import shown, shown_name
from cluster.errors import AdapterMalformed, AdapterUnsupported

MAX_PATTERNS = 2048
MAX_PATTERN_CHARS = 64 * 2**10
"""Of one expression; compiling that many takes half a second. An enumeration of 560 modules has
20,000."""
MAX_ALL_PATTERN_CHARS = 2 * MAX_PATTERN_CHARS
"""Of all expressions of one adapter."""
MATCH_TIMEOUT_S = 0.1
"""For one name."""
ALL_MATCHES_TIMEOUT_S = 5.0
"""For all names and expressions of one adapter, compiling included, in seconds of the processor."""

_LONG = 512  # characters; compiled expressions take some hundred bytes for each
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_FUZZY = re.compile(r"\{(?!\d*,?\d*\})")  # regex reads {e<=1} as a number of errors
_POSIX = "[:"  # regex reads [[:alpha:]] as a class, re as the letters


class Patience:
    """Bounds the time that matching may still take for one adapter.

    Args:
        seconds: in all.
        now: seconds of this thread's processor time.
    """

    def __init__(
        self, seconds: float = ALL_MATCHES_TIMEOUT_S, now: Callable[[], float] = time.thread_time
    ) -> None:
        self._left = seconds
        self._now = now

    def match(self, pattern: str, text: str) -> Any:
        """Match at the text's start, as ``re.match``; returns the match or None.

        Raises:
            AdapterMalformed: it is not a valid expression.
            AdapterUnsupported: it takes longer than ``MATCH_TIMEOUT_S``, or all together longer
                than the time that is left.
        """
        return self._timed("match", pattern, text)

    def matches(self, pattern: str, text: str) -> bool:
        """Return whether all of the text matches.

        Raises:
            AdapterError: as ``match``.
        """
        return self._timed("fullmatch", pattern, text) is not None

    def _timed(self, method: str, pattern: str, text: str) -> Any:
        began = self._now()
        try:
            found = getattr(compiled(pattern), method)(
                text, timeout=MATCH_TIMEOUT_S, concurrent=True
            )
        except TimeoutError as error:
            raise AdapterUnsupported(
                f"{shown(pattern)}: expected a pattern that matches {shown_name(text)} or not "
                f"within {MATCH_TIMEOUT_S} s, found one that takes longer; list the modules' names"
            ) from error
        self._left -= self._now() - began
        if self._left < 0:
            raise AdapterUnsupported(
                f"{shown(pattern)}: expected patterns that match all modules within "
                f"{ALL_MATCHES_TIMEOUT_S:g} s, found some that take longer; list the modules' names"
            )
        return found


def compiled(pattern: str) -> Any:
    """Compile an expression.

    Raises:
        AdapterMalformed: it is not a valid expression.
        AdapterUnsupported: ``re`` and ``regex`` do not read it alike.
    """
    return (_compiled_long if len(pattern) > _LONG else _compiled_short)(pattern)


def check_pattern(pattern: str) -> None:
    """Refuse what ``compiled`` would refuse, in less time.

    Raises:
        AdapterError: as ``compiled``.
    """
    if _POSIX in pattern or _FUZZY.search(_ESCAPED.sub("", pattern)):
        raise AdapterUnsupported(
            f"{shown(pattern)}: expected a pattern without '[:' and with braces only for a "
            "number of repetitions; list the modules' names"
        )
    with _syntax_errors(pattern):
        re.compile(pattern)


def _compile(pattern: str) -> Any:
    check_pattern(pattern)
    with _syntax_errors(pattern):
        return regex.compile(pattern)


@contextmanager
def _syntax_errors(pattern: str) -> Iterator[None]:
    try:
        yield
    except (re.error, regex.error, ValueError, OverflowError, RecursionError) as error:
        raise AdapterMalformed(
            f"not a regular expression: {shown(pattern)}: {str(error)[:100]}"
        ) from error


_compiled_short = lru_cache(maxsize=2 * MAX_PATTERNS)(_compile)
_compiled_long = lru_cache(maxsize=16)(_compile)
