"""Fits the cost model to what replicas report."""

from typing import Any

from cluster.domain.ids import ReplicaId
from cluster.domain.work import WorkTotals
from cluster.placement.cost.model import CostModel


class CostFit:
    """Learns costs from totals; one owner. Times are monotonic seconds of its process."""

    def __init__(self, prior: CostModel) -> None:
        self._model = prior

    def observe(self, replica_id: ReplicaId, totals: WorkTotals, now: float) -> None:
        """Take in a replica's totals; the first ones only tell where they stand."""

    def note_start(self, seconds: float) -> None:
        """Take in the time from asking for a replica to its first snapshot."""

    def remove_replica(self, replica_id: ReplicaId) -> None:
        """Drop a replica that is gone."""

    @property
    def model(self) -> CostModel:
        """Return the costs in force."""
        return self._model

    def describe(self) -> dict[str, Any]:
        """Return coefficients, standard errors, R2 and residuals by replica, for people."""
        return {}
