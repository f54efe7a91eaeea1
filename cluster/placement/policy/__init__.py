"""The operator's policy: its fields are in ``schema``."""

from cluster.placement.policy.schema import (
    AdapterRule,
    ClusterPolicy,
    CopyBounds,
    DownPolicy,
    PickingPolicy,
    PlacementPolicy,
    ReplicasPolicy,
    ScheduleEntry,
    TierPolicy,
    UpPolicy,
)

__all__ = [
    "AdapterRule",
    "ClusterPolicy",
    "CopyBounds",
    "DownPolicy",
    "PickingPolicy",
    "PlacementPolicy",
    "ReplicasPolicy",
    "ScheduleEntry",
    "TierPolicy",
    "UpPolicy",
]
