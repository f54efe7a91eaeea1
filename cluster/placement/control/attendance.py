"""Knows whether every replica that Serve counts has been heard of."""

from collections.abc import Collection

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts

PATIENCE_S = 30.0
"""A replica that Serve counts and that says nothing for so long is waited for no more."""


class Attendance:
    """Tracks how many replicas are counted and not heard; one owner. Monotonic seconds."""

    def __init__(self) -> None:
        self._since: list[float] = []  # of each number above 0: when so many were first missing
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

        One that takes the place of a missing one is waited for no longer than that one: starts
        that fail one after another are as one that takes long.
        """
        missing = _missing(heard, serve, replicas)
        del self._since[missing:]
        self._since += [now] * (missing - len(self._since))
        complete = all(now - since >= PATIENCE_S for since in self._since)
        if complete or len(heard) >= max(1, serve.running):
            self.opened = True
        return complete


def _missing(
    heard: Collection[ReplicaId], serve: ServeCounts, replicas: ServeReplicas | None
) -> int:
    if replicas is None:
        return max(0, serve.counted - len(heard))
    return len({replica.replica_id for replica in replicas.replicas} - set(heard))
