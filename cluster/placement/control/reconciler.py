"""The controller's state machine: what is, what should be, and what to tell whom."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.plan_version import PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import Actions
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.rates import DemandRates
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy


class Reconciler:
    """Compares the cluster with the policy once a tick; one owner.

    Times are monotonic seconds of its process. ``wall`` is for people and for schedules alone.
    Epoch 0 is a controller that may not act yet: it listens, plans nothing and keeps the count.
    """

    def __init__(
        self,
        epoch: int,
        prior: CostModel,
        *,
        rates: DemandRates | None = None,
        history: int = 200,
        resend_s: float = 5.0,
    ) -> None:
        """Keep ``history`` changes of a kind; repeat unacknowledged plans every ``resend_s``."""
        raise NotImplementedError

    def hear_replica(
        self, snapshot: ReplicaSnapshot, now: float, *, asked_at: float | None = None
    ) -> None:
        """Take in a replica's answer to a call that began at ``asked_at`` (default: ``now``)."""
        raise NotImplementedError

    def hear_front(self, report: FrontReport, now: float) -> FrontOrders:
        """Take in a front's report; the answer is what it is to go by."""
        raise NotImplementedError

    def replica_died(self, replica_id: ReplicaId, now: float, why: str) -> None:
        """Take in that a replica's actor is dead, which is final."""
        raise NotImplementedError

    def tick(
        self,
        catalog: Iterable[AdapterInfo],
        policy: ClusterPolicy,
        serve: ServeCounts,
        now: float,
        wall: datetime,
    ) -> Actions:
        """Compare what is with what should be."""
        raise NotImplementedError

    def acknowledge(
        self,
        replica_id: ReplicaId,
        version: PlanVersion,
        *,
        loaded: Iterable[AdapterDigest] = (),
        failed: Mapping[AdapterDigest, str] | None = None,
        evicted: Iterable[AdapterDigest] = (),
        policy: ClusterPolicy,
        now: float,
    ) -> None:
        """Take in a replica's answer to a plan: the version that it obeys now."""
        raise NotImplementedError

    def status(self, now: float) -> dict[str, Any]:
        """Return the placement with its reasons, JSON-able, for people."""
        raise NotImplementedError
