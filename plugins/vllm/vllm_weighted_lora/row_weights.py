"""Turns vLLM's mapping of rows to adapters into weights of rows for slots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

Parts = tuple[tuple[int, float], ...]
"""Numbers of loaded adapters and their weights."""

Runs = list[tuple[int, dict[int, float]]]
"""Runs of equal rows: how many rows, and their weights by slot."""


class RowWeights:
    """Knows the mixtures of a step and, for each number that a row can have, its weights."""

    def __init__(self) -> None:
        self.mixtures: Mapping[int, Parts] = {}
        self.at_head: Collection[int] = ()
        """Numbers of loaded adapters that reach the output head; most do not."""

    def without_mixtures(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the numbers with 0, "no adapter", in place of mixtures."""
        return tuple(0 if number in self.mixtures else number for number in numbers)

    def plain_mapping(self, mapping: Any) -> Any:
        """Return vLLM's ``LoRAMapping`` without mixtures, which its own code does not know."""
        return replace(
            mapping,
            index_mapping=self.without_mixtures(mapping.index_mapping),
            prompt_mapping=self.without_mixtures(mapping.prompt_mapping),
        )

    def mapped_runs(self, mapping: Any, numbers_by_slot: Sequence[int | None]) -> tuple[Runs, Runs]:
        """Return the runs of a step's tokens, and those of the rows that the output head computes.

        Args:
            mapping: vLLM's ``LoRAMapping``.
            numbers_by_slot: of the adapters in the slots; None for an empty one.
        """
        slots_of = {number: slot for slot, number in enumerate(numbers_by_slot) if number}
        at_head = {number: slots_of[number] for number in self.at_head if number in slots_of}
        tokens = self.runs(mapping.index_mapping, slots_of)
        return tokens, self.runs(mapping.prompt_mapping, at_head)

    def runs(self, numbers: Iterable[int], slots_of: Mapping[int, int]) -> Runs:
        """Return runs of equal rows.

        Args:
            numbers: of each row; 0 is the base model.
            slots_of: by number, slots of the adapters that count.
        """
        known: dict[int, dict[int, float]] = {}
        found = []
        for number, rows in groupby(numbers):
            if number not in known:
                known[number] = self._weights(number, slots_of)
            found.append((sum(1 for _ in rows), known[number]))
        return found

    def _weights(self, number: int, slots_of: Mapping[int, int]) -> dict[int, float]:
        if number <= 0:
            return {}
        parts = self.mixtures.get(number, ((number, 1.0),))
        return {slots_of[member]: weight for member, weight in parts if member in slots_of}
