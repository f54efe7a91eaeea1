"""Made-up results of runs, whose figures can be counted by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.simulation.result import (
    ClusterSample,
    MoveSample,
    PlacementSample,
    ServedRequest,
    SimulationResult,
    TierCounts,
)
from cluster.simulation.trace import TraceRequest


def served(
    tenant: str = "acme",
    *,
    at: float = 0.0,
    ttft: float | None = 0.1,
    itl: float | None = 0.05,
    tokens: int = 10,
    outcome: str = "ok",
    tier: Any = "device",
    cold: bool = False,
    adapters: Sequence[str] = ("sql",),
) -> ServedRequest:
    """Make one request with its outcome."""
    return ServedRequest(
        TraceRequest(at, TenantId(tenant), tuple(adapters), 16, tokens, tokens),
        outcome,
        replica=ReplicaId("r0"),
        tier_found=tier,
        queued_at=at,
        ttft=ttft,
        e2e=None if ttft is None else ttft + 1.0,
        itl=itl,
        tokens=tokens,
        cold=cold,
    )


def result(requests: Sequence[ServedRequest]) -> SimulationResult:
    """Make a run of 100 s with two replicas, a move and a change of the count."""
    digest = AdapterDigest("d-sql")
    return SimulationResult(
        requests=tuple(requests),
        samples=(
            ClusterSample(0.0, 1, 1, 0, 0, 0),
            ClusterSample(50.0, 2, 1, 1, 5, 3),
            ClusterSample(99.0, 2, 2, 0, 1, 0),
        ),
        moves=(
            MoveSample(10.0, ReplicaId("r0"), digest, "prefetch", 2_000_000, "copies 0 -> 1: x"),
        ),
        placements=(
            PlacementSample(10.0, ReplicaId("r0"), (digest,)),
            PlacementSample(60.0, ReplicaId("r0"), ()),
            PlacementSample(75.0, ReplicaId("r1"), (digest,)),
        ),
        tiers=TierCounts(3, 2, 6_000_000, 4_000_000, 4, 1),
        replica_seconds=150.0,
        duration_s=100.0,
    )


@pytest.fixture
def serve() -> Callable[..., ServedRequest]:
    return served


@pytest.fixture
def make_result() -> Callable[[Sequence[ServedRequest]], SimulationResult]:
    return result
