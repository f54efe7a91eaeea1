"""Exposes figures that other objects keep, read at each scrape."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.domain.replica import ReplicaSnapshot
from cluster.tenancy.metering import Meter
from deployments.front.telemetry.metrics import replica_metrics
from router_service.service import RoutingService


class Snapshots(Protocol):
    """Knows the replicas."""

    def snapshots(self) -> tuple[ReplicaSnapshot, ...]:
        """Return the latest snapshot of each replica."""
        ...


class ReplicaCollector(Collector):
    """Exposes what the replicas say of themselves."""

    def __init__(self, replicas: Snapshots) -> None:
        self._replicas = replicas

    def describe(self) -> Iterator[Metric]:
        """Announce nothing before the first scrape: the names depend on what replicas report."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        snapshots = self._replicas.snapshots()
        count = GaugeMetricFamily("braid_replicas", "Replicas this front can reach.")
        count.add_metric([], len(snapshots))
        yield count
        yield from replica_metrics(snapshots)


class RoutingCollector(Collector):
    """Exposes what the routing service and its store count."""

    def __init__(self, routing: RoutingService) -> None:
        self._routing = routing

    def describe(self) -> Iterator[Metric]:
        """Announce nothing before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        computations = CounterMetricFamily(
            "braid_router_computations", "Times a router ran, by router.", labels=["router"]
        )
        for router in self._routing.router_names:
            computations.add_metric([router], self._routing.counters.computations[router])
        yield computations
        shared = CounterMetricFamily(
            "braid_router_shared", "Requests that waited for the same prompt's decision."
        )
        shared.add_metric([], self._routing.counters.shared)
        yield shared
        store = CounterMetricFamily(
            "braid_decision_store", "Decision store operations, by result.", labels=["result"]
        )
        counters = self._routing.store.counters
        for result in ("hits", "misses", "tampered", "expired", "foreign", "unavailable", "stored"):
            store.add_metric([result], getattr(counters, result))
        yield store


class MeterCollector(Collector):
    """Exposes tokens by tenant, and credited to adapters by weight."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def describe(self) -> Iterator[Metric]:
        """Announce nothing before the first scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        snapshot = self._meter.snapshot()
        tenants = CounterMetricFamily(
            "braid_tokens", "Tokens by tenant.", labels=["tenant", "direction"]
        )
        for total in snapshot.tenants:
            tenants.add_metric([total.tenant, "prompt"], total.prompt_tokens)
            tenants.add_metric([total.tenant, "completion"], total.completion_tokens)
        yield tenants
        adapters = CounterMetricFamily(
            "braid_adapter_tokens",
            "Tokens credited to adapters by the size of their weight.",
            labels=["tenant", "adapter", "version", "direction"],
        )
        for used in snapshot.adapters:
            # A name that was switched has several versions, each with figures of its own.
            label = [used.tenant, used.alias or "(base)", used.digest]
            adapters.add_metric([*label, "prompt"], used.prompt_tokens)
            adapters.add_metric([*label, "completion"], used.completion_tokens)
        yield adapters
