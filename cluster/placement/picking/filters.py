"""Filters say which replicas a request may go to; a refusal has a name for metrics and people.

Hard filters always hold. Soft ones are preferences: one that would leave no replica is passed over.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.picking.cluster_view import ReplicaView


@dataclass(frozen=True, slots=True)
class PickRequest:
    """The properties of a request that a pick depends on."""

    digests: tuple[AdapterDigest, ...]  # of the whole mixture; empty: the base alone
    tenant: TenantId | None = None  # who asks; None has no neighbours
    exclude: Collection[ReplicaId] = ()  # replicas that just failed this request


class Filter(Protocol):
    """Judges each candidate among the candidates that the filters before it let pass."""

    @property
    def name(self) -> str:
        """Return the refusal's name."""
        ...

    @property
    def hard(self) -> bool:
        """Report whether it holds even if it leaves no replica."""
        ...

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        """Report for each replica whether it is refused."""
        ...


@dataclass(frozen=True, slots=True)
class NotExcluded:
    """Not a replica that just failed this very request."""

    name: ClassVar[str] = "excluded"
    hard: ClassVar[bool] = True

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        return [replica.replica_id in request.exclude for replica in replicas]


@dataclass(frozen=True, slots=True)
class NotDraining:
    """Not a replica that is about to leave."""

    name: ClassVar[str] = "draining"
    hard: ClassVar[bool] = True

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        del request
        return [replica.snapshot.draining for replica in replicas]


@dataclass(frozen=True, slots=True)
class QueueBound:
    """Room in the replica's queue, counting what this front sent since its last snapshot."""

    max_queued: int
    name: ClassVar[str] = "queue_full"
    hard: ClassVar[bool] = True

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        del request
        return [replica.snapshot.queued + replica.sent >= self.max_queued for replica in replicas]


@dataclass(frozen=True, slots=True)
class Fresh:
    """Refuses replicas without a recent snapshot."""

    stale_after_s: float
    name: ClassVar[str] = "stale"
    hard: ClassVar[bool] = False

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        del request
        return [replica.age > self.stale_after_s for replica in replicas]


@dataclass(frozen=True, slots=True)
class LoadBound:
    """Consistent hashing with bounded loads (Mirrokni et al., 2018): no replica far above the mean.

    With n replicas and L requests one more may go where the load stays within
    ``ceil(bound * (L + 1) / n) + slack``.
    """

    bound: float  # >= 1
    slack: int
    name: ClassVar[str] = "load_bound"
    hard: ClassVar[bool] = False

    def refused(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[bool]:
        del request
        if not replicas:
            return []
        total = sum(replica.load for replica in replicas)
        limit = math.ceil(self.bound * (total + 1) / len(replicas)) + self.slack
        return [replica.load + 1 > limit for replica in replicas]
