"""Meanings of every name at every moment, as far as a client can know them.

A change is sent at one moment and answered at a later one; in between, both what the name meant
before and what it means afterwards are right answers.
"""

import math
from collections import defaultdict
from dataclasses import dataclass


@dataclass(slots=True)
class NameSpan:
    """Time in which a name may have had a meaning; seconds of one clock."""

    version: str | None  # None: there was no such name
    begin: float
    end: float = math.inf


class NameBook:
    """One writer per name at a time; names that were never changed do not exist."""

    def __init__(self) -> None:
        self._spans: dict[str, list[NameSpan]] = defaultdict(lambda: [NameSpan(None, -math.inf)])

    def change(self, name: str, version: str | None, sent: float, answered: float) -> None:
        """Note a change that succeeded; ``version`` None: the name was removed."""
        spans = self._spans[name]
        spans[-1].end = answered
        spans.append(NameSpan(version, sent))

    def current(self, name: str) -> str | None:
        """Return the version that a name means now."""
        return self._spans[name][-1].version

    @property
    def names(self) -> list[str]:
        """Existing names, sorted."""
        return sorted(name for name, spans in self._spans.items() if spans[-1].version)

    def meant(self, name: str, begin: float, end: float) -> set[str | None]:
        """List everything that ``name`` may have meant between two moments."""
        return {
            span.version for span in self._spans[name] if span.begin <= end and span.end >= begin
        }

    @property
    def changes(self) -> int:
        """Of all names."""
        return sum(len(spans) - 1 for spans in self._spans.values())
