"""Refuses a policy whose entries contradict each other, naming all problems at once.

Each problem begins with the path of the entry below the section that is checked.
"""

import difflib
from collections.abc import Iterable
from typing import TypeVar

from pydantic_core import PydanticCustomError

CONTRADICTIONS = "contradictions"
"""Type of the pydantic error; its context has the list ``problems``."""
MANY_REPLICAS = 10_000

T = TypeVar("T")


def agreeing(section: T, problems: Iterable[str]) -> T:
    """Return the section unchanged.

    Raises:
        PydanticCustomError: there are problems; the error has all of them.
    """
    found = list(problems)
    if found:
        raise PydanticCustomError(
            CONTRADICTIONS, "{text}", {"text": "; ".join(found), "problems": found}
        )
    return section


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the advice to write the known tier that is nearest to ``word``, if one is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"tiers are {', '.join(names)}" if names else "name it under tiers"
