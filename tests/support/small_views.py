"""Views of replicas that are there, with nothing else known of them."""

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView


def view_of(*names: ReplicaId) -> ClusterView:
    """Return a view that has just heard of these replicas."""
    view = ClusterView()
    for name in names:
        view.update(ReplicaSnapshot(name, "", 0, 0, 1, 1, 4, 1, 0, (), draining=False), 0.0)
    return view
