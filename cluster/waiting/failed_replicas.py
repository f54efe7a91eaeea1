"""The replicas that failed one sequence, and which of them it must not be sent to again."""

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView


class FailedReplicas:
    """Belongs to one sequence."""

    __slots__ = ("_lost", "_stopping", "unplanned")

    def __init__(self) -> None:
        self._lost: tuple[ReplicaId, ...] = ()
        self._stopping: tuple[ReplicaId, ...] = ()
        self.unplanned = 0
        """Counts its failures, those on replicas that ended as planned aside."""

    def __len__(self) -> int:
        """Return how often it failed."""
        return len(self._lost)

    def add(self, replica_id: ReplicaId, *, stops: bool = False, planned: bool = False) -> None:
        """Note a failure.

        Args:
            stops: the replica has said that it does not continue it.
            planned: the replica ends as planned: it drained.
        """
        self._lost += (replica_id,)
        self.unplanned += not planned
        if stops:
            self._stopping += (replica_id,)

    def excluded(self, view: ClusterView) -> tuple[ReplicaId, ...]:
        """Return the replicas not to pick.

        One that was silent for long and is back has a link again. It is picked if it is the only
        one: to wait for another would fail a request that can be served.
        """
        if not self._lost:
            return ()
        others = any(known.replica_id not in self._lost for known in view.replicas())
        return self._lost if others else self._stopping
