"""The demand as the planner reads it: by adapter instead of by set."""

from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.demand import Demand

IDLE_RATE = 0.001
"""Requests per second below which an adapter counts as unused: fewer than four in an hour."""


@dataclass(frozen=True, slots=True)
class AdapterRate:
    """The demand for one adapter; a request for a set counts for each adapter in it."""

    digest: AdapterDigest
    rate: float  # requests per second that must be served: copies are added for it
    falling: float  # requests per second that may come back: copies are kept for it
    tenants: tuple[tuple[TenantId, float], ...]  # requests per second, busiest first


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The demand on the cluster."""

    total: float  # requests per second that must be served, base included
    falling: float  # requests per second that may come back
    adapters: tuple[AdapterRate, ...]  # without the base, by digest

    def tenants(self) -> dict[TenantId, float]:
        """Return adapter arrivals per second by tenant (a mixture counts once for each adapter)."""
        rates: dict[TenantId, float] = {}
        for adapter in self.adapters:
            for tenant, rate in adapter.tenants:
                rates[tenant] = rates.get(tenant, 0.0) + rate
        return rates


def load_of(demand: Demand) -> LoadReport:
    """Return the demand by adapter."""
    rates: dict[AdapterDigest, float] = {}
    falling: dict[AdapterDigest, float] = {}
    tenants: dict[AdapterDigest, dict[TenantId, float]] = {}
    for one in demand.rates:
        for digest in one.key.adapters:
            rates[digest] = rates.get(digest, 0.0) + one.up
            falling[digest] = falling.get(digest, 0.0) + one.down
            shares = tenants.setdefault(digest, {})
            shares[one.key.tenant] = shares.get(one.key.tenant, 0.0) + one.up
    return LoadReport(
        total=demand.up,
        falling=demand.down,
        adapters=tuple(
            AdapterRate(
                digest=digest,
                rate=rates[digest],
                falling=falling[digest],
                tenants=tuple(
                    sorted(tenants[digest].items(), key=lambda item: (-item[1], item[0]))
                ),
            )
            for digest in sorted(rates)
            if falling[digest] >= IDLE_RATE
        ),
    )
