"""Smoothed arrival rates per adapter and tenant, from cumulative counters in snapshots."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.domain.ids import BASE, AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import ReplicaSnapshot

REQUESTS_COUNTER = "requests_arrived"
"""Engine counter with all requests of a replica. A request for a mixture counts once here, but
once for each of its adapters in ``loads``; without it the sum over ``loads`` stands in."""

_Key = tuple[AdapterDigest, TenantId]
_ALL_REQUESTS: _Key = (AdapterDigest("*"), TenantId(""))
_FORGET_AFTER_WINDOWS = 20


@dataclass(frozen=True, slots=True)
class AdapterRate:
    """Smoothed arrivals for one adapter."""

    digest: AdapterDigest
    rate: float  # requests per second
    tenants: tuple[tuple[TenantId, float], ...]  # requests per second, busiest first


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The present demand on the cluster."""

    total: float  # requests per second, base included
    window_s: float  # time constant of the average
    adapters: tuple[AdapterRate, ...]  # without the base, by digest

    def tenants(self) -> dict[TenantId, float]:
        """Return adapter arrivals per second by tenant (a mixture counts once for each adapter)."""
        rates: dict[TenantId, float] = {}
        for adapter in self.adapters:
            for tenant, rate in adapter.tenants:
                rates[tenant] = rates.get(tenant, 0.0) + rate
        return rates


class LoadTracker:
    """Exponentially decayed arrival counts; one owner, fed once per tick.

    With time constant T an arrival ``s`` seconds ago contributes ``exp(-s/T) / T``. Arrivals
    between two ticks are taken as spread evenly, so a late tick does not look like a burst.
    """

    def __init__(self) -> None:
        self._counters: dict[ReplicaId, dict[_Key, int]] = {}
        self._seen_at: dict[ReplicaId, float] = {}
        self._rates: dict[_Key, float] = {}
        self._updated_at: float | None = None

    def observe(
        self, snapshots: Iterable[ReplicaSnapshot], now: float, *, window_s: float, idle_rate: float
    ) -> LoadReport:
        """Take in the replicas' counters; ``now`` in seconds, rates in requests per second.

        The first call only learns where the counters stand. Later a new replica id counts from
        zero, and a counter that fell is taken as restarted.
        """
        first = self._updated_at is None
        elapsed = 0.0 if self._updated_at is None else max(0.0, now - self._updated_at)
        decay = math.exp(-elapsed / window_s)
        gain = (1.0 - decay) / elapsed if elapsed > 0.0 else 1.0 / window_s
        arrived: dict[_Key, int] = {}
        for snapshot in snapshots:
            counters = _counters(snapshot)
            before = self._counters.get(snapshot.replica_id, {})
            if not (first and snapshot.replica_id not in self._counters):
                for key, value in counters.items():
                    previous = before.get(key, 0)
                    delta = value - previous if value >= previous else value
                    arrived[key] = arrived.get(key, 0) + delta
            self._counters[snapshot.replica_id] = counters
            self._seen_at[snapshot.replica_id] = now
        for key in self._rates.keys() | arrived.keys():
            rate = self._rates.get(key, 0.0) * decay + arrived.get(key, 0) * gain
            if rate >= idle_rate:
                self._rates[key] = rate
            else:
                self._rates.pop(key, None)
        self._updated_at = now if self._updated_at is None else max(now, self._updated_at)
        self._forget_replicas(now - _FORGET_AFTER_WINDOWS * window_s)
        return self._report(window_s)

    def _forget_replicas(self, before: float) -> None:
        for replica_id in [r for r, seen_at in self._seen_at.items() if seen_at < before]:
            del self._seen_at[replica_id]
            del self._counters[replica_id]

    def _report(self, window_s: float) -> LoadReport:
        by_adapter: dict[AdapterDigest, list[tuple[TenantId, float]]] = {}
        summed = 0.0
        for (digest, tenant), rate in sorted(self._rates.items()):
            if (digest, tenant) == _ALL_REQUESTS:
                continue
            summed += rate
            if digest != BASE:
                by_adapter.setdefault(digest, []).append((tenant, rate))
        adapters = tuple(
            AdapterRate(
                digest=digest,
                rate=sum(rate for _, rate in tenants),
                tenants=tuple(sorted(tenants, key=lambda item: (-item[1], item[0]))),
            )
            for digest, tenants in by_adapter.items()
        )
        return LoadReport(
            total=self._rates.get(_ALL_REQUESTS, summed), window_s=window_s, adapters=adapters
        )

    def to_state(self) -> dict[str, Any]:
        """Return its state, JSON-able; ``from_state`` continues from it."""
        return {
            "updated_at": self._updated_at,
            "rates": [[*key, rate] for key, rate in sorted(self._rates.items())],
            "replicas": {
                replica_id: {
                    "seen_at": self._seen_at[replica_id],
                    "counters": [[*key, value] for key, value in sorted(counters.items())],
                }
                for replica_id, counters in sorted(self._counters.items())
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "LoadTracker":
        """Return the tracker that ``to_state`` described."""
        tracker = cls()
        tracker._updated_at = state["updated_at"]
        tracker._rates = {_key(entry): float(entry[2]) for entry in state["rates"]}
        for replica_id, replica in state["replicas"].items():
            tracker._seen_at[replica_id] = replica["seen_at"]
            tracker._counters[replica_id] = {_key(e): int(e[2]) for e in replica["counters"]}
        return tracker


def _key(entry: list[Any]) -> _Key:
    return AdapterDigest(entry[0]), TenantId(entry[1])


def _counters(snapshot: ReplicaSnapshot) -> dict[_Key, int]:
    counters: dict[_Key, int] = {}
    for load in snapshot.loads:
        key = (load.digest, load.tenant)
        counters[key] = counters.get(key, 0) + load.arrived
    for name, value in snapshot.counters:
        if name == REQUESTS_COUNTER:
            counters[_ALL_REQUESTS] = int(value)
    return counters
