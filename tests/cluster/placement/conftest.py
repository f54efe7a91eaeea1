"""Builders shared by the placement tests."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.planning.plan import AdapterInfo


def digest_of(name: str) -> AdapterDigest:
    return AdapterDigest(f"digest-{name}")


class Builder:
    """Makes snapshots and adapters with few words."""

    def info(self, name: str, *, owner: str = "acme", nbytes: int = 10) -> AdapterInfo:
        return AdapterInfo(digest_of(name), name, TenantId(owner), nbytes)

    def resident(
        self,
        name: str,
        state: AdapterState = AdapterState.READY,
        *,
        nbytes: int = 10,
        leases: int = 0,
        pinned: bool = False,
        idle_s: float = 0.0,
    ) -> ResidentAdapter:
        return ResidentAdapter(digest_of(name), name, state, nbytes, 8, leases, pinned, idle_s)

    def snapshot(
        self,
        replica_id: str = "r0",
        *,
        sequence: int = 0,
        queued: int = 0,
        running: int = 0,
        kv_free: int = 100,
        slots: int = 4,
        resident: tuple[ResidentAdapter, ...] = (),
        draining: bool = False,
        desired: tuple[str, ...] = (),
        desired_version: PlanVersion = NO_PLAN,
        counters: tuple[tuple[str, float], ...] = (),
        **others: Any,
    ) -> ReplicaSnapshot:
        return ReplicaSnapshot(
            replica_id=ReplicaId(replica_id),
            address="127.0.0.1:1",
            queued=queued,
            running=running,
            kv_blocks_total=100,
            kv_blocks_free=kv_free,
            slots_total=slots,
            adapter_bytes_limit=1000,
            adapter_bytes_used=sum(adapter.nbytes for adapter in resident),
            resident=resident,
            draining=draining,
            sequence=sequence,
            desired=tuple(digest_of(name) for name in desired),
            desired_version=desired_version,
            counters=counters,
            **{"max_batch_size": 16, **others},
        )


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def digest() -> Callable[[str], AdapterDigest]:
    return digest_of
