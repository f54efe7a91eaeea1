"""Picks a replica and says what each would cost, in one process.

python examples/pick_replica.py
"""

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import PickExplanation, ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy

SQL = AdapterDigest("digest of sql")


def replica(name: str, running: int, *adapters: AdapterDigest) -> ReplicaSnapshot:
    """Describe a replica as it would describe itself."""
    return ReplicaSnapshot(
        ReplicaId(name), "", queued=0, running=running, kv_blocks_total=96, kv_blocks_free=96,
        slots_total=8, adapter_bytes_limit=80_000_000, adapter_bytes_used=0,
        draining=False, sequence=1, max_batch_size=16,
        resident=tuple(
            ResidentAdapter(digest, "", AdapterState.READY, 10_000_000, 8, 0)
            for digest in adapters
        ),
    )  # fmt: skip


def main() -> PickExplanation:
    """Pick between a busy replica with the adapter and an idle one without it."""
    view = ClusterView()
    view.update(replica("busy", 4, SQL), now=0.0)
    view.update(replica("idle", 0), now=0.0)
    request = PickRequest((SQL,), prompt_tokens=200, expected_tokens=64)
    pick = Picker(PickingPolicy()).explain(view, request, now=0.1)
    for candidate in pick.candidates:
        terms = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in candidate.terms)
        print(f"{candidate.replica_id}: {1000 * (candidate.cost or 0):.0f} ms ({terms})")
    return pick


if __name__ == "__main__":
    main()
