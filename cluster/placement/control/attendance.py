"""Knows whether every replica that Serve counts has been heard of."""

from collections.abc import Collection

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts

PATIENCE_S = 30.0
"""A replica that Serve counts and that says nothing for so long is waited for no more."""


class Attendance:
    """Tracks the replicas that are counted and not heard; one owner. Monotonic seconds."""

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}  # and since when
        self.opened = False
        """The first roll call is over: from here on adapters may be moved."""

    def call(
        self,
        heard: Collection[ReplicaId],
        serve: ServeCounts,
        replicas: ServeReplicas | None,
        now: float,
    ) -> bool:
        """Compare who is there; returns whether all are, or the missing ones are given up.

        Each is waited for on its own. Without Serve's list they are told apart by number alone.
        """
        missing = _missing(heard, serve, replicas)
        self._missing = {name: self._missing.get(name, now) for name in missing}
        complete = all(now - since >= PATIENCE_S for since in self._missing.values())
        if complete or len(heard) >= max(1, serve.running):
            self.opened = True
        return complete


def _missing(
    heard: Collection[ReplicaId], serve: ServeCounts, replicas: ServeReplicas | None
) -> Collection[str]:
    if replicas is None:
        return [f"number {number}" for number in range(serve.counted - len(heard))]
    return {replica.replica_id for replica in replicas.replicas} - set(heard)
