"""Turns fronts' totals into rates on two clocks."""

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.placement.demand.demand import Demand, DemandTotals


class DemandRates:
    """Rates of the whole cluster; one owner. Times are monotonic seconds of its process."""

    def observe(self, front: str, totals: Iterable[DemandTotals], now: float) -> None:
        """Take in a front's totals; differences are taken here, so a lost report loses nothing."""

    def demand(self, now: float) -> Demand:
        """Return the present demand."""
        return Demand()

    def to_state(self, now: float) -> dict[str, Any]:
        """Return all that a restarted controller needs, JSON-able; ages, not times."""
        return {}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], now: float) -> "DemandRates":
        """Return the rates that ``to_state`` described."""
        return cls()
