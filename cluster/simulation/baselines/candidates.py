"""The replicas that any pick rule may choose from."""

from collections.abc import Sequence

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView, ReplicaView
from cluster.placement.picking.filters import PickRequest


def candidates(view: ClusterView, request: PickRequest, now: float) -> Sequence[ReplicaView]:
    """Return the replicas that neither leave nor have just failed the request, by id."""
    return [
        replica
        for replica in view.replicas(now)
        if not replica.snapshot.draining and replica.replica_id not in request.exclude
    ]


def least_loaded(
    replicas: Sequence[ReplicaView], ranks: dict[ReplicaId, int] | None = None
) -> ReplicaId | None:
    """Return the replica with the fewest requests; equal ones go by ``ranks``, then by id."""
    if not replicas:
        return None
    order = ranks or {}
    best = min(replicas, key=lambda r: (r.load, order.get(r.replica_id, 0), r.replica_id))
    return best.replica_id
