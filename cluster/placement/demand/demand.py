"""Demand: what tenants ask for, counted by tenant and adapter set where it arrives."""

from dataclasses import dataclass
from typing import NamedTuple

from cluster.domain.ids import AdapterDigest, TenantId

AdapterSet = tuple[AdapterDigest, ...]
"""The adapters of a decision without weights: distinct and sorted. The base alone is ``()``."""


class DemandKey(NamedTuple):
    """The unit in which demand is counted."""

    tenant: TenantId
    adapters: AdapterSet


@dataclass(frozen=True, slots=True)
class DemandTotals:
    """One key's requests since the front started. All totals only grow."""

    key: DemandKey
    arrived: int = 0
    prompt_tokens: int = 0  # of all that arrived
    generated_tokens: int = 0  # of those that finished
    finished: int = 0
    refused: int = 0  # counted in ``arrived`` too: unserved demand is demand
    waited_s: float = 0.0  # to the first token, summed over those that have one


@dataclass(frozen=True, slots=True)
class DemandRate:
    """One key's smoothed demand, in requests per second on two clocks (15 s and 240 s)."""

    key: DemandKey
    up: float  # what must be served: the slow rate, or a rise that is no accident
    down: float  # what must be gone from both clocks before anything is taken away
    hold: float  # what both clocks agree on: worth keeping
    prompt_tokens: float  # mean of a request
    generated_tokens: float  # mean of a request


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand on the cluster."""

    rates: tuple[DemandRate, ...] = ()  # by key

    @property
    def up(self) -> float:
        """Return all requests per second that must be served."""
        return sum(rate.up for rate in self.rates)

    @property
    def down(self) -> float:
        """Return all requests per second that must be gone before anything is taken away."""
        return sum(rate.down for rate in self.rates)
