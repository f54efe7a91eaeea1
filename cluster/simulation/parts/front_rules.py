"""Picks at a simulated front: by the cluster's own picker, or by a baseline's rule."""

import random
from statistics import median

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import ReplicaId
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy
from cluster.placement.tiers import tier_of
from cluster.simulation.spec import PickRule


class FrontPicks:
    """Picks for one front, and keeps what its reports tell of the picks.

    Args:
        rule: None: the real picker.
    """

    def __init__(self, rule: PickRule | None, policy: PickingPolicy, seed: int) -> None:
        self._rule = rule
        self._policy = policy
        self._picker = Picker(policy, rng=random.Random(seed))
        self._tiers: dict[str, str] = {}
        self._predicted: dict[str, list[float]] = {}  # by tier, since the last report
        self.cold = 0
        self.picked = 0

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the replica for a request, or None if a rule holds it.

        Raises:
            Overloaded, ReplicaLost: as ``Picker.pick``.
        """
        if self._rule is not None:
            return self._rule.pick(view, request, now)
        choice = self._picker.pick(view, request, now)
        tier = tier_of(self._tiers, request.tenant or "")
        if tier is not None:
            self._predicted.setdefault(tier, []).append(choice.predicted_ttft)
        return choice.replica_id

    def note_sent(self, view: ClusterView, request: PickRequest, replica_id: ReplicaId) -> bool:
        """Count a request that is sent; return whether the replica lacks some of its set."""
        replica = view.get(replica_id)
        held = {} if replica is None else replica.held
        cold = not all(
            digest in held and held[digest].state is AdapterState.READY
            for digest in request.digests
        )
        self.picked += 1
        self.cold += cold
        return cold

    def take_predictions(self) -> dict[str, float]:
        """Return the median prediction of each tier since the last call."""
        taken, self._predicted = self._predicted, {}
        return {tier: median(seconds) for tier, seconds in taken.items()}

    def follow(self, orders: FrontOrders) -> None:
        """Pick by what the controller says."""
        self._tiers = dict(orders.tiers)
        if orders.picking != self._policy:
            self._policy = orders.picking
            self._picker.follow(orders.picking)
