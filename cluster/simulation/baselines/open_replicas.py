"""The replicas that any pick rule may choose from."""

from collections.abc import Sequence

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import (
    Filter,
    Fresh,
    NotDraining,
    NotExcluded,
    NotLeaving,
    PickRequest,
)
from cluster.placement.picking.replica_view import ReplicaView

_FILTERS: tuple[Filter, ...] = (NotExcluded(), NotDraining(), NotLeaving(), Fresh())


def candidates(view: ClusterView, request: PickRequest, now: float) -> Sequence[ReplicaView]:
    """Return the replicas that neither leave, nor failed the request, nor are silent, by id.

    If all are silent, they are candidates nevertheless: every system has some check of health.
    """
    moment = view.moment(now)
    replicas: Sequence[ReplicaView] = view.replicas()
    for rule in _FILTERS:
        verdicts = rule.refused(replicas, request, moment)
        if rule.hard or not all(verdicts):
            replicas = [r for r, refused in zip(replicas, verdicts, strict=True) if not refused]
    return replicas


def least_loaded(
    replicas: Sequence[ReplicaView], ranks: dict[ReplicaId, int] | None = None
) -> ReplicaId | None:
    """Return the replica with the fewest requests; equal ones go by ``ranks``, then by id."""
    if not replicas:
        return None
    order = ranks or {}
    best = min(replicas, key=lambda r: (r.load, order.get(r.replica_id, 0), r.replica_id))
    return best.replica_id
