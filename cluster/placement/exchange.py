"""Defines the messages that a front and the controller exchange once a second."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NewType

from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import DemandTotals
from cluster.placement.policy import PickingPolicy
from cluster.placement.policy.tiers import tier_of

FrontId = NewType("FrontId", str)
"""One life of one front: a restarted front gets a new one."""


@dataclass(frozen=True, slots=True)
class FrontReport:
    """Reports what one front has seen to the controller."""

    front: FrontId
    sequence: int  # counts reports; an older one that comes late is ignored
    demand: tuple[DemandTotals, ...] = ()  # keys that changed since the last acknowledged report
    dead: tuple[ReplicaId, ...] = ()  # whose link ended since the last acknowledged report
    held: int = 0  # requests that want a first replica: they wait, or came and could not
    predicted_ttft: Mapping[str, float] = field(default_factory=dict)
    """Median predicted time to the first token of the last picks, by tier, in seconds."""
    cold: int = 0  # requests that were sent to a replica without their whole set, since its start
    picked: int = 0  # requests that were sent to a replica, since its start
    epoch: int = 0  # of the controller whose orders it follows; 0: of none with an epoch
    policy_version: int = 0  # that these orders are from; 0: of none that is kept
    own_weights: Mapping[TenantId, float] = field(default_factory=dict)
    """Weights of all tenants of the tenants file."""


@dataclass(frozen=True, slots=True)
class FrontOrders:
    """Carries the controller's answer, which the front follows."""

    acknowledged: int  # sequence of the newest report taken in
    epoch: int  # of the controller's life
    model: CostModel = field(default_factory=CostModel)
    draining: frozenset[ReplicaId] = frozenset()  # about to leave: pick others
    fronts: int = 1  # that reported recently
    picking: PickingPolicy = field(default_factory=PickingPolicy)
    tiers: Mapping[str, str] = field(default_factory=dict)  # patterns of tenants, in order
    weights: Mapping[str, float] = field(default_factory=dict)  # of tiers that name one, by tier
    itls: Mapping[str, float] = field(default_factory=dict)  # promised seconds between tokens
    hold_s: float = 30.0  # a request waits so long for the first replica
    retry_after_s: float = 30.0  # until a start is over; for clients that cannot wait
    zero: bool = False  # the policy lets all replicas go: a front without any is ready
    policy_version: int = 0  # that these orders are from; 0: of none that is kept
    knows_policy: bool = True  # False: the controller does not know yet which one is in force

    def with_policy(self, earlier: "FrontOrders") -> "FrontOrders":
        """Return these orders, with the policy of earlier ones if these bring none."""
        if self.knows_policy:
            return self
        return replace(
            self,
            picking=earlier.picking,
            tiers=earlier.tiers,
            weights=earlier.weights,
            itls=earlier.itls,
            hold_s=earlier.hold_s,
            zero=earlier.zero,
            policy_version=earlier.policy_version,
        )

    def tier_weight(self, tenant: TenantId) -> float | None:
        """Return the weight that the policy names for a tenant's tier, or None."""
        if not self.weights:
            return None
        return self.weights.get(tier_of(self.tiers, tenant) or "")

    def promised_itl(self, tenant: TenantId) -> float:
        """Return the seconds between tokens that a tenant is promised; infinite without a tier."""
        return self.itls.get(tier_of(self.tiers, tenant) or "", math.inf)
