"""The planner's inputs and answer: data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.cost.model import LoadCost
from cluster.placement.demand.demand import AdapterSet, Demand
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.planning.rules import PlanningRules
from cluster.placement.policy.tiers import LeastCopies


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """The facts that placement needs about one version."""

    digest: AdapterDigest
    alias: str
    owner: TenantId
    nbytes: int  # on the device where known, else in the file


class ResidentCopy(NamedTuple):
    """One adapter that takes up room on a replica now."""

    digest: AdapterDigest
    nbytes: int
    ready: bool
    busy: bool  # leased, pinned or on its way in or out: cannot be evicted now


@dataclass(frozen=True, slots=True)
class ReplicaRoom:
    """One replica that adapters may be placed on."""

    replica_id: ReplicaId
    slots: int
    bytes_limit: int
    resident: tuple[ResidentCopy, ...] = ()
    desired: tuple[AdapterDigest, ...] = ()  # what the last plan put here
    eviction_age_s: float = 0.0  # from last use to eviction in its pool; 0: nothing was evicted


@dataclass(frozen=True, slots=True)
class ChurnLeft:
    """Bytes that may still be moved within this minute."""

    ordinary: int
    urgent: int  # by promises
    unused: bool = True  # nothing was moved: one set may go beyond, or a large one never moved


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a plan depends on."""

    replicas: tuple[ReplicaRoom, ...]
    adapters: tuple[AdapterInfo, ...]
    demand: Demand
    rules: PlanningRules
    work: WorkModel
    load: LoadCost  # of an adapter that is on no device
    churn: ChurnLeft
    pins: Mapping[AdapterDigest, int] = field(default_factory=dict)  # least copies
    most: Mapping[AdapterDigest, int] = field(default_factory=dict)  # copies, where a rule says so
    previous: Mapping[AdapterSet, int] = field(default_factory=dict)  # copies by work, if above 1
    moved: frozenset[AdapterDigest] = frozenset()  # within the payback time, by no promise
    avoid: frozenset[tuple[ReplicaId, AdapterDigest]] = frozenset()  # prefetch failed recently
    lost: frozenset[AdapterDigest] = frozenset()  # whose only copies have gone

    def permit(self, earlier: "PlanInputs") -> bool:
        """Return whether a plan of ``earlier`` inputs may come into force with these.

        It may not where the policy asks for something else, or where a replica that it counts on
        is about to leave, suspect or gone: what it gives up on the others may be needed there.
        Demand may have come and gone meanwhile.
        """
        there = {room.replica_id for room in self.replicas}
        return (
            self.rules.ask_the_same(earlier.rules)
            and self.pins == earlier.pins
            and self.most == earlier.most
            and all(room.replica_id in there for room in earlier.replicas)
        )


class MoveKind(StrEnum):
    """The kind of a change on a replica."""

    PREFETCH = "prefetch"
    RELEASE = "release"  # it may be evicted like what demand alone brought in


class PlacedFor(StrEnum):
    """The rule that a set has its places by; the first that holds."""

    PIN = "pinned"
    LOST = "restored"
    LEAST = "least copies"
    COPY = "another copy"
    EVEN = "evened out"
    COMING = "on its way"
    OWED = "owed"
    KEPT = "kept"
    DEMAND = "left to demand"


@dataclass(frozen=True, slots=True)
class Move:
    """One change on one replica, with its reason in words."""

    replica_id: ReplicaId
    digest: AdapterDigest
    kind: MoveKind
    reason: str  # its kind, a colon, and figures
    nbytes: int = 0
    promised: bool = False  # outside the ordinary churn


class WantedSet(NamedTuple):
    """One set that is asked for. Rates are requests per second; work is replicas' seconds per
    second."""

    members: AdapterSet
    up: float  # rate that must be served
    hold: float  # rate that it is worth keeping for
    work: float  # that must be done
    work_down: float  # that may come back
    load_s: float  # until the slowest member is on the device
    size: float  # shares of a pool that its members take
    saved: float  # seconds per second while it is on a device, by its tenants' weights
    density: float  # ``saved`` by share of a pool
    tenants: tuple[tuple[TenantId, float], ...]  # parts of the rate, largest first
    promised: LeastCopies  # the most that one of its tenants is promised


class PlannedSet(NamedTuple):
    """One set, and where the plan has it."""

    members: AdapterSet
    aliases: tuple[str, ...]
    rule: PlacedFor
    replicas: tuple[ReplicaId, ...]  # that are to have it
    present: int  # replicas that have all of it, or are to have it
    copies: int  # by work, pins and the policy
    previous: int
    pinned: int  # least copies by pin, 0 without
    most: int | None  # copies, by the policy
    wanted: WantedSet | None  # None: a pin without demand


@dataclass(frozen=True, slots=True)
class Plan:
    """The adapters of each replica. Equal inputs in any order give an equal plan."""

    desired: Mapping[ReplicaId, tuple[AdapterDigest, ...]]  # what was placed first
    moves: tuple[Move, ...]
    sets: tuple[PlannedSet, ...] = ()  # densest first
    unplaced: tuple[tuple[AdapterSet, str], ...] = ()  # promises without a place, and why
    kept: Mapping[ReplicaId, frozenset[AdapterDigest]] = field(default_factory=dict)
    """Those of ``desired`` that are kept where they are, and not fetched should they have gone."""
