"""Defines the front's metrics, and exposes the replicas' own counters."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.domain.replica import ReplicaSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TTFT_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 5, 10, 30, 60)
LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
GAP_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
ROUTE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

HITS = "adapter_hits_"
"""A replica's counter of this prefix is followed by a tier."""


class FrontMetrics:
    """Holds one front process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "braid_requests_total",
            "Requests by how they ended.",
            ["tenant", "endpoint", "outcome"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "braid_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.decisions = Counter(
            "braid_decisions_total",
            "Decisions by how they were obtained.",
            ["tenant", "source"],
            registry=self.registry,
        )
        self.route_seconds = Histogram(
            "braid_route_seconds",
            "Time to obtain a decision.",
            ["source"],
            buckets=ROUTE_BUCKETS,
            registry=self.registry,
        )
        self.ttft_seconds = Histogram(
            "braid_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            buckets=TTFT_BUCKETS,
            registry=self.registry,
        )
        self.inter_token_seconds = Histogram(
            "braid_inter_token_latency_seconds",
            "Between two tokens of one sequence.",
            buckets=GAP_BUCKETS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "braid_request_seconds",
            "From a request's arrival to its end.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.failovers = Counter(
            "braid_failovers_total",
            "Sequences continued on another replica after theirs was lost.",
            registry=self.registry,
        )
        self.tenants_refused = Gauge(
            "braid_tenants_file_refused",
            "1 while the tenants file's present content is refused and the last good one in force.",
            registry=self.registry,
        )
        self.trace_lines = Counter(
            "braid_trace_log_lines_total",
            "Lines of the trace log, by what became of them.",
            ["result"],
            registry=self.registry,
        )
        self.reroutes = Counter(
            "braid_reroutes_total",
            "Sentences of answers that were routed again, by what became of it.",
            ["result"],
            registry=self.registry,
        )

    def add_collector(self, collector: Collector) -> None:
        """Expose figures that live elsewhere."""
        self.registry.register(collector)

    def exposition(self) -> bytes:
        """Return the text of ``GET /metrics``."""
        return generate_latest(self.registry)


def replica_metrics(snapshots: Iterable[ReplicaSnapshot]) -> Iterator[Metric]:
    """Return the replicas' snapshots as metrics labelled by replica."""
    gauges = {
        "running": GaugeMetricFamily(
            "braid_replica_running_sequences", "Sequences in the batch.", labels=["replica"]
        ),
        "queued": GaugeMetricFamily(
            "braid_replica_queued_requests", "Requests not yet admitted.", labels=["replica"]
        ),
        "kv_total": GaugeMetricFamily(
            "braid_replica_kv_blocks", "KV blocks in all.", labels=["replica"]
        ),
        "kv_free": GaugeMetricFamily(
            "braid_replica_kv_blocks_free", "KV blocks not in use.", labels=["replica"]
        ),
        "resident": GaugeMetricFamily(
            "braid_replica_resident_adapters", "Adapters by state.", labels=["replica", "state"]
        ),
        "leases": GaugeMetricFamily(
            "braid_replica_adapter_leases", "Leases held by requests.", labels=["replica"]
        ),
        "adapter_bytes": GaugeMetricFamily(
            "braid_replica_adapter_bytes", "Device bytes of adapters.", labels=["replica"]
        ),
        "host_bytes": GaugeMetricFamily(
            "braid_replica_adapter_host_bytes", "Host bytes of adapters.", labels=["replica"]
        ),
    }
    hits = CounterMetricFamily(
        "braid_adapter_hits",
        "Adapters that requests asked for, by where they were then.",
        labels=["replica", "tier"],
    )
    counters: dict[str, CounterMetricFamily] = {}
    for snapshot in snapshots:
        label = [snapshot.replica_id]
        gauges["running"].add_metric(label, snapshot.running)
        gauges["queued"].add_metric(label, snapshot.queued)
        gauges["kv_total"].add_metric(label, snapshot.kv_blocks_total)
        gauges["kv_free"].add_metric(label, snapshot.kv_blocks_free)
        gauges["adapter_bytes"].add_metric(label, snapshot.adapter_bytes_used)
        gauges["host_bytes"].add_metric(label, snapshot.host_bytes_used)
        gauges["leases"].add_metric(label, sum(item.leases for item in snapshot.resident))
        states: dict[str, int] = {}
        for item in snapshot.resident:
            states[item.state.value] = states.get(item.state.value, 0) + 1
        for state, count in sorted(states.items()):
            gauges["resident"].add_metric([snapshot.replica_id, state], count)
        for name, value in snapshot.counters:
            if name.startswith(HITS):
                hits.add_metric([snapshot.replica_id, name.removeprefix(HITS)], value)
                continue
            family = counters.setdefault(
                name,
                CounterMetricFamily(
                    f"braid_engine_{name}", f"Engine counter: {name}.", labels=["replica"]
                ),
            )
            family.add_metric(label, value)
    yield from gauges.values()
    yield hits
    yield from counters.values()
