"""Adds up what a simulated replica has loaded, evicted and computed."""

from cluster.adapters.residency.manager import AdapterManager
from cluster.simulation.replica.engine_port import SimulatedEngine
from cluster.simulation.result import TierCounts


def count_tiers(adapters: AdapterManager, engine: SimulatedEngine) -> TierCounts:
    """Return the sums since the replica began."""
    counters, loads, totals = dict(adapters.counters()), adapters.loads, engine.totals
    return TierCounts(
        loads_from_host=loads.host.loads,
        loads_from_disk=loads.disk.loads,
        bytes_from_host=loads.host.nbytes,
        bytes_from_disk=loads.disk.nbytes,
        evictions=int(counters["adapter_evictions_device"]),
        evictions_host=int(counters["adapter_evictions_host"]),
        steps=totals.steps,
        step_seconds=totals.seconds,
        generated_tokens=engine.generated_tokens,
    )
