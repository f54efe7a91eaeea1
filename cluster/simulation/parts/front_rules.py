"""Picks at a simulated front: by the cluster's own picker, or by a baseline's rule."""

import random

from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker, holds_all
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.placement.picking.replica_view import ReplicaView
from cluster.placement.policy import PickingPolicy
from cluster.simulation.spec import PickRule


class FrontPicks:
    """Picks for one front, and counts the picks for its reports.

    Args:
        rule: None: the real picker.
    """

    def __init__(self, rule: PickRule | None, policy: PickingPolicy, seed: int) -> None:
        self._rule = rule
        self._policy = policy
        self._picker = Picker(policy, rng=random.Random(seed))
        self.recent = RecentPicks()
        self._predicted_ttft: float | None = None  # of the last pick; a rule predicts nothing

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the replica for a request, or None if a rule holds it.

        Raises:
            Overloaded, ReplicaLost: as ``Picker.pick``.
        """
        if self._rule is not None:
            return self._rule.pick(view, request, now)
        choice = self._picker.pick(view, request, now)
        self._predicted_ttft = choice.predicted_ttft
        return choice.replica_id

    def has_room(self, replica: ReplicaView, tenant: TenantId | None = None) -> bool:
        """Report whether a replica takes another request, as far as it is up to the replica."""
        return self._picker.has_room(replica, tenant)

    def note_sent(
        self, view: ClusterView, request: PickRequest, replica_id: ReplicaId, now: float
    ) -> bool:
        """Count a request that is sent; return whether the replica lacks some of its set."""
        replica = view.get(replica_id)
        whole = replica is not None and holds_all(replica, request)
        self.recent.note(
            request.tenant or "", whole=whole, predicted_ttft=self._predicted_ttft, now=now
        )
        return not whole

    def follow(self, orders: FrontOrders) -> None:
        """Pick by what the controller says."""
        self.recent.follow(orders.tiers)
        if orders.picking is not self._policy and orders.picking != self._policy:
            self._policy = orders.picking
            self._picker.follow(orders.picking)
