"""Collects a simulation's figures that belong to no single request."""

from collections.abc import Callable, Mapping

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.control.actions import Actions
from cluster.simulation.result import ClusterSample, MoveSample, PlacementSample

Counts = tuple[int, int, int, int]
"""Replicas ready and starting, requests in flight and held."""


class Records:
    """Time series of one simulation, in virtual seconds."""

    def __init__(
        self,
        now: Callable[[], float],
        counts: Callable[[], Counts],
        nbytes: Mapping[AdapterDigest, int],
    ) -> None:
        self._now = now
        self._counts = counts
        self._nbytes = nbytes
        self.samples: list[ClusterSample] = []
        self.moves: list[MoveSample] = []
        self.placements: list[PlacementSample] = []
        self.deaths_seen: dict[ReplicaId, float] = {}
        self._desired: dict[ReplicaId, tuple[AdapterDigest, ...]] = {}

    def note_tick(self, actions: Actions, count: int, reason: str) -> None:
        """Record what a tick of the controller decided."""
        at = self._now()
        self.samples.append(ClusterSample(at, count, *self._counts(), reason))
        for move in actions.moves:
            nbytes = self._nbytes.get(move.digest, 0)
            self.moves.append(
                MoveSample(at, move.replica_id, move.digest, move.kind.value, nbytes, move.reason)
            )

    def note_plan(self, replica_id: ReplicaId, desired: tuple[AdapterDigest, ...]) -> None:
        """Record a plan that has reached its replica."""
        if self._desired.get(replica_id) != desired:
            self._desired[replica_id] = desired
            self.placements.append(PlacementSample(self._now(), replica_id, desired))

    def note_death(self, replica_id: ReplicaId) -> None:
        """Record that the controller has seen a replica's end."""
        self.deaths_seen.setdefault(replica_id, self._now())
