"""Demand: what tenants ask for, counted by tenant and adapter set where it arrives."""

from dataclasses import dataclass
from typing import NamedTuple

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.clocks import down_rate, up_rate

AdapterSet = tuple[AdapterDigest, ...]
"""The adapters of a decision without weights: distinct and sorted. The base alone is ``()``."""


class DemandKey(NamedTuple):
    """The unit in which demand is counted."""

    tenant: TenantId
    adapters: AdapterSet


class DemandTotals(NamedTuple):
    """One key's requests in one life of the key at one front. All totals only grow.

    A life begins when the front starts to count the key, and ends when the front drops it.
    """

    key: DemandKey
    arrived: int = 0
    prompt_tokens: int = 0  # of all that arrived
    generated_tokens: int = 0  # of those that finished
    finished: int = 0
    refused: int = 0  # counted in ``arrived`` too: unserved demand is demand
    waited_s: float = 0.0  # to the first token, summed over those that have one
    life: int = 0  # a later life of the key at this front has a higher number
    cached_tokens: int = 0  # of the prompts of those that finished, found in a prefix cache
    age_s: float = 0.0  # since that life began, at most a report's interval too long


class DemandRate(NamedTuple):
    """One key's smoothed demand, in requests per second on two clocks (15 s and 240 s)."""

    key: DemandKey
    up: float  # what must be served: the slow rate, or a rise that is not an accident
    down: float  # what must be gone from both clocks before anything is taken away
    hold: float  # what both clocks agree on: worth keeping
    prompt_tokens: float  # mean of a request, what prefix caches had left out
    generated_tokens: float  # mean of a request
    fast: float = 0.0  # requests per second, half-life 15 s
    slow: float = 0.0  # requests per second, half-life 240 s


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand on the cluster.

    The clocks of all keys are added before they are compared: how requests are divided among
    tenants and sets changes nothing in the sums.
    """

    rates: tuple[DemandRate, ...] = ()  # by key
    arrived: int = 0  # requests that are known to have come in this life of the rates; only grows

    @property
    def fast(self) -> float:
        """Return all requests per second on the fast clock."""
        return sum(rate.fast for rate in self.rates)

    @property
    def slow(self) -> float:
        """Return all requests per second on the slow clock."""
        return sum(rate.slow for rate in self.rates)

    @property
    def up(self) -> float:
        """Return all requests per second that must be served."""
        return up_rate(self.fast, self.slow)

    @property
    def down(self) -> float:
        """Return all requests per second that must be gone before anything is taken away."""
        return down_rate(self.fast, self.slow)
