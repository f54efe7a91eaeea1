"""The planner's inputs and answer: data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.planning.load import LoadReport
from cluster.placement.policy import ClusterPolicy


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """The facts that placement needs about one version."""

    digest: AdapterDigest
    alias: str
    owner: TenantId
    nbytes: int  # on the device where known, else in the file


@dataclass(frozen=True, slots=True)
class ResidentCopy:
    """One adapter that takes up room on a replica now."""

    digest: AdapterDigest
    nbytes: int
    ready: bool
    busy: bool  # leased, pinned or on its way in or out: cannot be evicted now
    idle_s: float = 0.0  # since its last use


@dataclass(frozen=True, slots=True)
class ReplicaRoom:
    """One replica that adapters may be placed on."""

    replica_id: ReplicaId
    slots: int
    bytes_limit: int
    resident: tuple[ResidentCopy, ...] = ()
    desired: tuple[AdapterDigest, ...] = ()  # what the last plan put here


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a plan depends on."""

    replicas: tuple[ReplicaRoom, ...]
    adapters: tuple[AdapterInfo, ...]
    load: LoadReport
    policy: ClusterPolicy
    pins: Mapping[AdapterDigest, int] = field(default_factory=dict)  # least copies
    previous: Mapping[AdapterDigest, int] = field(default_factory=dict)  # copies decided last
    cooling: frozenset[AdapterDigest] = frozenset()  # changed recently: lose no copy
    avoid: frozenset[tuple[ReplicaId, AdapterDigest]] = frozenset()  # prefetch failed recently
    lost: frozenset[AdapterDigest] = frozenset()  # whose only copies have gone: outside the budget

    def permit(self, earlier: "PlanInputs") -> bool:
        """Return whether a plan of ``earlier`` inputs may come into force with these.

        It may not where the policy is another, or where a replica that it counts on is about to
        leave, suspect or gone: what it evicts from the others may be needed there.
        """
        there = {room.replica_id for room in self.replicas}
        return earlier.policy == self.policy and all(
            room.replica_id in there for room in earlier.replicas
        )


class MoveKind(StrEnum):
    """The kind of a change on a replica."""

    PREFETCH = "prefetch"
    EVICT = "evict"


@dataclass(frozen=True, slots=True)
class Move:
    """One change on one replica, with its reason in words."""

    replica_id: ReplicaId
    digest: AdapterDigest
    kind: MoveKind
    reason: str


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """The number of copies that an adapter should have, and the reason."""

    digest: AdapterDigest
    alias: str
    copies: int
    previous: int
    pinned: int  # least copies by pin, 0 without
    rate: float  # requests per second
    share: float  # of all requests, 0 to 1
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The adapters of each replica. Equal inputs in any order give an equal plan."""

    desired: Mapping[ReplicaId, tuple[AdapterDigest, ...]]  # what matters most first
    moves: tuple[Move, ...]
    copies: tuple[CopyTarget, ...]  # by alias
    unplaced: tuple[tuple[AdapterDigest, str], ...] = ()  # copies without a place, and why
