"""The front's end of a link to a simulated replica, and what arrives there."""

from typing import Protocol

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.simulation.replica.engine_port import SequenceNews
from cluster.simulation.virtual.virtual_process import VirtualProcess


class LinkEnd(Protocol):
    """The front's end of a link to one replica. Called when a message has arrived."""

    process: VirtualProcess

    def hear_step(
        self, replica_id: ReplicaId, news: list[SequenceNews], running: int, queued: int
    ) -> None:
        """Take in what a step brought, and the load that it leaves."""
        ...

    def hear_snapshot(
        self, snapshot: ReplicaSnapshot, on_host: tuple[ResidentAdapter, ...] | None
    ) -> None:
        """Take in a snapshot; ``on_host`` is None if it has not changed."""
        ...
