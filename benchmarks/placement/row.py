"""Defines one row of the table "before, demanded, after"."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ResultRow:
    """One demand on placement, next to what was measured before it and what is measured now."""

    name: str  # of the row, as the command line takes it
    what: str  # the load and the figure, in words
    before: str  # with its unit
    demanded: str
    after: str
    interval: str  # of ``after``: seeds, and the 95 % interval or the range; "-" for a count
    met: bool | None  # None: not measured, or nothing was demanded
