"""Checks where requests found their adapters, as Prometheus reads it."""

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from deployments.front.telemetry.metrics import replica_metrics


def test_hits_are_one_metric_by_tier() -> None:
    snapshot = ReplicaSnapshot(
        replica_id=ReplicaId("r1"),
        address="",
        queued=0,
        running=0,
        kv_blocks_total=8,
        kv_blocks_free=8,
        slots_total=4,
        adapter_bytes_limit=100,
        adapter_bytes_used=10,
        resident=(),
        draining=False,
        counters=(("adapter_hits_device", 3.0), ("adapter_hits_disk", 1.0), ("steps", 9.0)),
        host_bytes_used=20,
    )
    samples = {
        (sample.name, sample.labels.get("tier")): sample.value
        for family in replica_metrics([snapshot])
        for sample in family.samples
    }
    assert samples["braid_adapter_hits_total", "device"] == 3.0
    assert samples["braid_adapter_hits_total", "disk"] == 1.0
    assert samples["braid_engine_steps_total", None] == 9.0
    assert samples["braid_replica_adapter_host_bytes", None] == 20
    assert not any(name.startswith("braid_engine_adapter_hits") for name, _ in samples)
