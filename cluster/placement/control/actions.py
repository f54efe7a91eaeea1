"""The controller's tasks after a tick: data only."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.plan_version import PlanVersion
from cluster.placement.control.history import Change
from cluster.placement.demand.demand import AdapterSet, Demand
from cluster.placement.planning.plan import Move, PlannedSet


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """The message to one replica."""

    replica_id: ReplicaId
    version: PlanVersion
    desired: tuple[AdapterDigest, ...]  # what matters most first
    pinned: frozenset[AdapterDigest] = frozenset()  # of ``desired``, never to be evicted
    kept: frozenset[AdapterDigest] = frozenset()  # of ``desired``, not to be fetched


@dataclass(frozen=True, slots=True)
class Actions:
    """Holds what the controller has to do after a tick."""

    epoch: int
    replica_plans: tuple[ReplicaPlan, ...]  # only for replicas that must hear of it
    replica_count: int  # to have from now on; Serve's target where nothing is to change
    replica_reason: str
    draining: frozenset[ReplicaId]  # about to leave: picks pass them over
    sets: tuple[PlannedSet, ...]
    moves: tuple[Move, ...]  # new in this tick, of a plan that is sent
    unplaced: tuple[tuple[AdapterSet, str], ...]
    unknown_pins: tuple[str, ...]
    demand: Demand
    wishes: Mapping[str, int]  # replicas that each reason alone would ask for
    changes: tuple[Change, ...]  # new lines of the history
