"""A cluster at rest: gauges are 0, KV blocks are free, and every replica's books balance."""

from collections.abc import Mapping
from typing import Any

from testing.exposition import Metrics

GAUGES = (
    "braid_requests_in_flight",
    "braid_replica_running_sequences",
    "braid_replica_queued_requests",
    "braid_replica_adapter_leases",
)
"""These are 0 while nothing is being answered."""


def unrest(metrics: Metrics) -> list[str]:
    """List the gauges that are not as they are at rest."""
    found = [f"{name} is {value:g}" for name in GAUGES if (value := metrics.total(name)) != 0]
    free = metrics.total("braid_replica_kv_blocks_free")
    blocks = metrics.total("braid_replica_kv_blocks")
    if free != blocks or not blocks:
        found.append(f"{free:g} of {blocks:g} KV blocks are free")
    return found


def broken_books(answer: Mapping[str, Any], replicas: int) -> list[str]:
    """List the problems in an answer of ``/admin/v1/integrity``.

    Args:
        replicas: number of replicas that must have answered.
    """
    books = answer["replicas"]
    found = [f"integrity of {name}: {what}" for name, what in books.items() if what]
    found += [f"integrity of {name}: no answer" for name in answer["silent"]]
    if len(books) != replicas:
        found.append(f"{len(books)} replicas answer, expected {replicas}")
    return found
