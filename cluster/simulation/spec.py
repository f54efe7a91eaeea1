"""The description of a simulation: data only.

Times are virtual seconds since the trace began, unless they are called otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from cluster.config import EngineConfig
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.cost.model import CostModel
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.inputs import ScaleInputs
from cluster.simulation.trace import TraceRequest

A_MONDAY = 1_750_032_000.0
"""Midnight in UTC, in seconds since the epoch: when a trace begins that names no moment."""
ReplicaEngine = Literal["exact", "fast"]
"""``exact`` computes every step with the real scheduler; ``fast`` shares time among requests."""


class PickRule(Protocol):
    """Picks replicas in place of Braid's picker; one object serves one front."""

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the replica for a request; None holds it until the view changes."""
        ...


class ScaleRule(Protocol):
    """Decides the replica count in place of Braid's."""

    def count(self, inputs: ScaleInputs, in_flight: int, now: float) -> int:
        """Return the replicas to have from now on; asked once a tick."""
        ...


class PickRuleFactory(Protocol):
    """Makes the rule of one front."""

    def __call__(self, front: int, seed: int) -> PickRule:
        """Return a new rule; equal arguments give rules that pick alike."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """The capacity of one replica; all are alike."""

    slots: int = 8
    adapter_bytes: int = 512 * 2**20  # on the device
    host_bytes: int = 512 * 2**20  # host memory for adapters
    engine: EngineConfig = field(default_factory=EngineConfig)  # KV blocks, batch, fairness
    share_window_s: float = 60.0
    load_timeout_s: float = 60.0
    parallel_loads: int = 2


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that the parts around the engine take."""

    front_s: float = 0.003  # from a request's arrival at a front to its pick
    hop_s: float = 0.001  # one way between a front and a replica
    publish_s: float = 0.1  # between a replica's looks at whether its state has changed
    heartbeat_s: float = 1.0  # between snapshots while nothing changes
    discovery_s: float = 1.0  # between a front's looks for new replicas
    link_lost_s: float = 0.05  # from a process's death to the end of its links
    error_s: float = 0.5  # from a process's death until calls to it fail, by Ray's word
    exchange_s: float = 1.0  # between a front's reports to the controller
    tick_s: float = 1.0  # between the controller's looks
    call_s: float = 0.005  # one way of a call through Serve
    target_s: float = 0.5  # from the controller's word to Serve's target
    notice_s: float = 1.0  # from a replica's death until Serve starts another
    health_s: float = 30.0  # a replica that hangs longer is ended by Serve
    drain_s: float = 60.0  # that a leaving replica has to finish its requests

    @property
    def coarse(self) -> "Delays":
        """Return the same, with everybody looking and telling less often, for long traces."""
        return replace(
            self,
            publish_s=max(self.publish_s, 0.5),
            heartbeat_s=max(self.heartbeat_s, 2.0),
            exchange_s=max(self.exchange_s, 2.0),
            tick_s=max(self.tick_s, 10.0),
        )


@dataclass(frozen=True, slots=True)
class ReplicaDies:
    """A replica's process ends at once. ``replica`` counts replicas as asked for."""

    at: float
    replica: int


@dataclass(frozen=True, slots=True)
class ReplicaHangs:
    """A replica stands still: it says, takes and computes nothing, and its links stay open."""

    at: float
    replica: int
    for_s: float = math.inf


@dataclass(frozen=True, slots=True)
class FrontDies:
    """A front ends with the requests that it serves; a new one replaces it."""

    at: float
    front: int
    down_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ControllerDies:
    """The controller ends; a new one takes its place, with what is in the store or without."""

    at: float
    down_s: float = 5.0
    keeps_state: bool = True


@dataclass(frozen=True, slots=True)
class StoreLeaves:
    """The store of the controller's state cannot be reached: nothing is written or read."""

    at: float
    for_s: float


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """The operator puts another policy in force."""

    at: float
    policy: ClusterPolicy


@dataclass(frozen=True, slots=True)
class WallClockSteps:
    """The wall clock of one process jumps."""

    at: float
    process: str  # ``controller``, ``front-0``, ``r2``: numbered in order of start
    seconds: float  # forward; negative: back


Fault = (
    ReplicaDies
    | ReplicaHangs
    | FrontDies
    | ControllerDies
    | StoreLeaves
    | PolicyChanges
    | WallClockSteps
)


@dataclass(frozen=True, slots=True)
class SimulationSpec:
    """All that a simulation depends on: equal specifications give equal results."""

    trace: Sequence[TraceRequest]  # by time
    policy: ClusterPolicy
    catalog: Sequence[AdapterInfo]  # the trace's adapters, by digest or by alias
    shape: ReplicaSpec = ReplicaSpec()
    model: CostModel = field(default_factory=CostModel)  # what steps, loads, starts really take
    crowding: float = 0.0  # share that each other replica which computes adds to a step's time
    prior: CostModel | None = None  # what the controller believes at first; None: the truth
    replicas: int = 1  # that run when the trace begins
    fronts: int = 1
    engine: ReplicaEngine = "fast"
    seed: int = 0
    delays: Delays = Delays()
    faults: Sequence[Fault] = ()
    picker: PickRuleFactory | None = None  # None: Braid's
    scaler: ScaleRule | None = None  # None: Braid's
    ranks: Mapping[AdapterDigest, int] = field(default_factory=dict)  # 8 where absent
    own_weights: Mapping[TenantId, float] = field(default_factory=dict)
    """Of tenants, by their file, where it names one."""
    until: float | None = None  # None: until every request has ended
    start_wall: float = A_MONDAY  # wall clock when the trace begins, seconds since the epoch
