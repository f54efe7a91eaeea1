"""Checks what the front's own collectors expose."""

from prometheus_client import CollectorRegistry, generate_latest

from cluster.domain.adapter import SHARED_OWNER, AdapterKey, WeightedAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.domain.request import Outcome, Usage
from cluster.tenancy.metering import Meter
from deployments.front.telemetry.collectors import MeterCollector


def test_generations_of_one_name_are_told_apart() -> None:
    """A series that is there twice spoils a scrape."""
    meter = Meter()
    for digest, tokens in (("old", 3), ("new", 5), ("new", 2)):
        key = AdapterKey(SHARED_OWNER, "sql", AdapterDigest(digest))
        meter.record(
            TenantId("acme"), Outcome.COMPLETED, Usage(0, tokens), [WeightedAdapter(key, 1.0)]
        )
    registry = CollectorRegistry()
    registry.register(MeterCollector(meter))
    lines = [
        line.rsplit(" ", 1)
        for line in generate_latest(registry).decode().splitlines()
        if line.startswith("braid_adapter_tokens_total") and 'direction="completion"' in line
    ]
    assert len({series for series, _ in lines}) == len(lines)
    found = {series.split('version="')[1].split('"')[0]: float(n) for series, n in lines}
    assert found == {"old": 3.0, "new": 7.0}
