"""What every name meant at every moment, as far as somebody outside can know it.

A change is sent at one moment and answered at a later one; in between, both what the name meant
before and what it means afterwards are right answers.
"""

import math
from collections import defaultdict
from dataclasses import dataclass


@dataclass(slots=True)
class Span:
    """From when to when a name may have meant something; seconds of one clock."""

    version: str | None  # None: there was no such name
    begin: float
    end: float = math.inf


class NameBook:
    """One writer per name at a time; names that were never changed do not exist."""

    def __init__(self) -> None:
        self._spans: dict[str, list[Span]] = defaultdict(lambda: [Span(None, -math.inf)])

    def change(self, name: str, version: str | None, sent: float, answered: float) -> None:
        """A change succeeded; ``version`` None: the name was removed."""
        spans = self._spans[name]
        spans[-1].end = answered
        spans.append(Span(version, sent))

    def current(self, name: str) -> str | None:
        """What it means now."""
        return self._spans[name][-1].version

    @property
    def names(self) -> list[str]:
        """Those that exist now, sorted."""
        return sorted(name for name, spans in self._spans.items() if spans[-1].version)

    def meant(self, name: str, begin: float, end: float) -> set[str | None]:
        """Everything that ``name`` may have meant between two moments."""
        return {
            span.version for span in self._spans[name] if span.begin <= end and span.end >= begin
        }

    @property
    def changes(self) -> int:
        """Of all names."""
        return sum(len(spans) - 1 for spans in self._spans.values())
