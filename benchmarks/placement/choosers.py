"""Choosers of a replica: Braid's picker, and rules that know less."""

import math
import random
from collections.abc import Sequence
from typing import ClassVar

from benchmarks.placement.step_cluster import MODEL, Request
from cluster.domain.ids import ReplicaId, RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.picking.replica_view import ReplicaView
from cluster.placement.policy import PickingPolicy
from cluster.placement.rendezvous import mixture_key, order


class PickChooser:
    """Braid's picker, with the view that a front has."""

    def __init__(
        self, seed: int, model: CostModel = MODEL, policy: PickingPolicy | None = None
    ) -> None:
        self.view = ClusterView()
        self.view.follow(FrontOrders(0, 0, model=model))
        self.rng = random.Random(seed)
        self._picker = Picker(policy or PickingPolicy(), rng=self.rng)

    def update(self, snapshot: ReplicaSnapshot, now: float) -> None:
        self.view.update(snapshot, now)

    def choose(self, request: Request, now: float) -> ReplicaId:
        arrival = request.arrival
        wanted = PickRequest(arrival.digests, arrival.tenant, (), arrival.prompt, arrival.tokens)
        chosen = self.rule(wanted, self.view.replicas(), now)
        self.view.sent(request.id, chosen, wanted, now)
        return chosen

    def finished(self, request_id: RequestId) -> None:
        self.view.finished(request_id)

    def rule(self, request: PickRequest, replicas: Sequence[ReplicaView], now: float) -> ReplicaId:
        """Return the replica for a request."""
        del replicas
        return self._picker.pick(self.view, request, now).replica_id


class RandomChooser(PickChooser):
    """Any replica."""

    def rule(self, request: PickRequest, replicas: Sequence[ReplicaView], now: float) -> ReplicaId:
        del request, now
        return self.rng.choice(replicas).replica_id


class LeastLoadedChooser(PickChooser):
    """The replica with the fewest requests."""

    def rule(self, request: PickRequest, replicas: Sequence[ReplicaView], now: float) -> ReplicaId:
        del request, now
        return min(replicas, key=lambda r: (r.load, self.rng.random())).replica_id


class BoundedRendezvousChooser(PickChooser):
    """The first replica in the set's order whose load is at most 1.25 times the mean."""

    BOUND: ClassVar[float] = 1.25

    def rule(self, request: PickRequest, replicas: Sequence[ReplicaView], now: float) -> ReplicaId:
        del now
        loads = {replica.replica_id: replica.load for replica in replicas}
        limit = math.ceil(self.BOUND * (sum(loads.values()) + 1) / len(loads))
        ranked = order(mixture_key(request.digests), loads)
        return next(name for name in ranked if loads[name] + 1 <= limit)


CHOOSERS: dict[str, type[PickChooser]] = {
    "pick": PickChooser,
    "random": RandomChooser,
    "least loaded": LeastLoadedChooser,
    "rendezvous, bounded": BoundedRendezvousChooser,
}
