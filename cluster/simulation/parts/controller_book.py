"""The store as the controller uses it: its epochs, and what one life leaves to the next."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from cluster.placement.control.history import Change
from cluster.placement.demand.forecast import Forecast


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
        self._forecast: dict[str, str] = {}
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

    def write_forecast(self, forecast: Forecast) -> None:
        """Keep what has changed of the forecast, as ``write_demand`` does."""
        if self._keeps and self.reachable:
            changes = forecast.changes()
            self._forecast |= {name: json.dumps(part) for name, part in changes.items()}
            forecast.written(changes)

    def add_lines(self, changes: Iterable[Change]) -> None:
        """Keep new lines of the history, where the store can be reached."""
        if self._keeps and self.reachable:
            self._changes += changes

    def read(self) -> tuple[dict[str, Any] | None, dict[str, Any], list[Change]] | None:
        """Return demand, forecast and history of the lives before; None: it is unreachable."""
        if not self.reachable:
            return None
        forecast = {name: json.loads(part) for name, part in self._forecast.items()}
        return json.loads(self._demand) if self._demand else None, forecast, list(self._changes)
