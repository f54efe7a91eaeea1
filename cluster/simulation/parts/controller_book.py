"""The store as the controller uses it: its epochs, and what one life leaves to the next."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from cluster.placement.control.history import Change


class ControllerBook:
    """Outlives controllers.

    Args:
        keeps: whether a later life may read what is written.
    """

    def __init__(self, *, keeps: bool) -> None:
        self.reachable = True
        self._keeps = keeps
        self._epoch = 0
        self._demand = ""
        self._changes: list[Change] = []

    def take_epoch(self) -> int | None:
        """Return the next epoch, or None while the store is unreachable."""
        if not self.reachable:
            return None
        self._epoch += 1
        return self._epoch

    def write_demand(self, demand: Callable[[], dict[str, Any]]) -> None:
        """Keep the demand for a later life, where there may be one and the store can be reached."""
        if self._keeps and self.reachable:
            self._demand = json.dumps(demand())

    def add_lines(self, changes: Iterable[Change]) -> None:
        """Keep new lines of the history, where the store can be reached."""
        if self._keeps and self.reachable:
            self._changes += changes

    def read(self) -> tuple[dict[str, Any] | None, list[Change]] | None:
        """Return demand and history of the lives before, or None while it is unreachable."""
        if not self.reachable:
            return None
        return json.loads(self._demand) if self._demand else None, list(self._changes)
