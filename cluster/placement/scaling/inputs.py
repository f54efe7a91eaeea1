"""Names what the number of replicas depends on, and what is decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cluster.domain.ids import AdapterDigest
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.policy import ClusterPolicy


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """The capacity of one replica; all have the same."""

    slots: int
    adapter_bytes: int
    max_batch_size: int
    block_size: int = 16  # tokens of a KV block


@dataclass(frozen=True, slots=True)
class ScaleInputs:
    """All that a count depends on, apart from what was decided before."""

    policy: ClusterPolicy
    demand: Demand
    model: CostModel
    shape: ReplicaShape | None  # None: no replica has reported yet
    adapter_bytes: Mapping[AdapterDigest, int]  # of the catalog
    target: int  # replicas that Serve is to run now
    ready: int  # replicas that reported recently
    starting_for_s: float | None  # age of the oldest start under way; None: none is
    backlog_s: float  # seconds of prompts that wait, in the whole cluster
    in_flight: int  # above 0 while requests run, wait, are held by fronts or have just ended
    predicted_ttft: Mapping[str, float]  # by tier, median of the last picks
    cold: float | None  # measured share of requests whose set was not whole; None: unknown
    least: int  # copies that pins and tiers need
    complete: bool  # every replica that Serve counts has reported: only then may the count fall
    wall: datetime  # aware, for the schedule alone
    queued: float = 0.0
    """Requests that wait at replicas, each times its replica's slowness: none of their answers is
    generated."""


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """The count to have; replicas above it are to be drained."""

    count: int
    reason: str  # begins with the count
    wishes: Mapping[str, int] = field(default_factory=dict)
    """By queue, load, memory, floor, and forecast where the policy has one."""
