"""Fits the reconciler of today to how it is driven here: each answer as it comes, then a tick."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.planning.fleet import ReplicaPlan as ReplicaPlan
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.planning.reconciler import Actions as Actions
from cluster.placement.planning.reconciler import Reconciler as TickReconciler
from cluster.placement.policy import ClusterPolicy


@dataclass(frozen=True, slots=True)
class ServeCounts:
    """Serve's account of the replicas."""

    target: int  # that are to run
    running: int
    starting: int


class Reconciler:
    """Collects answers between ticks."""

    def __init__(self, inner: TickReconciler, prior: CostModel) -> None:
        self.inner = inner
        self._prior = prior
        self._heard: dict[ReplicaId, ReplicaSnapshot] = {}

    def hear_replica(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Take in a replica's answer."""
        self._heard[snapshot.replica_id] = snapshot

    def hear_front(self, report: FrontReport, now: float) -> FrontOrders:
        """Take in a front's report."""
        return FrontOrders(acknowledged=report.sequence, epoch=1, model=self._prior)

    def replica_died(self, replica_id: ReplicaId, now: float, why: str) -> None:
        """Take in that a replica's actor is dead; it is missed once it was silent for long."""
        self._heard.pop(replica_id, None)

    def tick(
        self,
        catalog: Iterable[AdapterInfo],
        policy: ClusterPolicy,
        serve: ServeCounts,
        now: float,
        wall: datetime,
    ) -> Actions:
        """Compare what is with what should be."""
        heard, self._heard = self._heard, {}
        actions = self.inner.tick(heard.values(), catalog, policy, now)
        if policy.placement.mode != "on":
            actions = replace(actions, replica_plans=(), moves=())
        if policy.replicas.mode == "off":
            actions = replace(actions, replica_count=policy.replicas.min)
        return actions

    def acknowledge(
        self,
        replica_id: ReplicaId,
        version: int,
        *,
        loaded: Iterable[AdapterDigest],
        failed: Mapping[AdapterDigest, str],
        evicted: Iterable[AdapterDigest],
        policy: ClusterPolicy,
        now: float,
    ) -> None:
        """Take in a replica's answer to a plan."""
        self.inner.acknowledge(
            replica_id,
            version,
            loaded=loaded,
            failed=failed,
            evicted=evicted,
            policy=policy,
            now=now,
        )


class ControllerBook:
    """What the store keeps of the controller.

    Args:
        keeps: whether a later life will read it.
    """

    def __init__(self, *, keeps: bool) -> None:
        self.reachable = True
        self._keeps = keeps
        self._state = ""

    def save(self, reconciler: Reconciler, now: float) -> None:
        """Write the state down, where the store can be reached."""
        if self._keeps and self.reachable:
            self._state = json.dumps(reconciler.inner.to_state())

    def read(self) -> str:
        """Return the state last written; nothing while the store is away."""
        return self._state if self.reachable else ""


def new_reconciler(
    book: ControllerBook, prior: CostModel, *, restore: bool, now: float
) -> Reconciler:
    """Return the reconciler of a new life."""
    state = book.read() if restore else ""
    if state:
        return Reconciler(TickReconciler.from_state(json.loads(state)), prior)
    return Reconciler(TickReconciler(), prior)
