"""Filters say which replicas a request may go to; a refusal has a name for metrics and people.

Hard filters always hold. Soft ones are preferences: where they leave no replica, the pick is made
among those that the hard ones let pass.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import HEARTBEAT_S
from cluster.placement.picking.replica_view import ReplicaView

STALE_AFTER_S = 3 * HEARTBEAT_S
"""A replica that has been silent for this long is used only if there is no other."""


class PickRequest(NamedTuple):
    """The properties of a request that a pick depends on."""

    digests: tuple[AdapterDigest, ...]  # of the whole mixture; empty: the base alone
    tenant: TenantId | None = None  # who asks; None waits for all others
    exclude: Collection[ReplicaId] = ()  # replicas that just failed this request
    prompt_tokens: int = 0
    expected_tokens: int = 64  # that it will probably generate
    prefix: tuple[int, ...] = ()
    """Keys of the prompt's beginnings, one for each of ``prefixes.LENGTHS`` that it reaches."""
    explain: bool = False  # keep how the replica was picked
    gates: bool = False  # its adapters are weighed inside the model


class Moment(NamedTuple):
    """Facts about the whole cluster that filters compare a replica with."""

    now: float  # monotonic seconds of this process
    mean_load: float  # requests of a replica
    draining: frozenset[ReplicaId] = frozenset()  # by the controller's word


class Filter(Protocol):
    """Judges replicas one by one."""

    @property
    def name(self) -> str:
        """Return the refusal's name."""
        ...

    @property
    def hard(self) -> bool:
        """Report whether it holds even if it leaves no replica."""
        ...

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        """Report for each replica whether it is refused."""
        ...


@dataclass(frozen=True, slots=True)
class NotExcluded:
    """Not a replica that just failed this very request."""

    name: ClassVar[str] = "excluded"
    hard: ClassVar[bool] = True

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        exclude = request.exclude
        return [replica.replica_id in exclude for replica in replicas]


@dataclass(frozen=True, slots=True)
class NotDraining:
    """Not a replica that says that it takes no more requests."""

    name: ClassVar[str] = "draining"
    hard: ClassVar[bool] = True

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del request, moment
        return [replica.snapshot.draining for replica in replicas]


@dataclass(frozen=True, slots=True)
class QueueBound:
    """Room in the replica's queue, counting what this front sent since its last word.

    A full queue still takes tenants that have nothing there, as the replica does.
    """

    max_queued: int
    name: ClassVar[str] = "queue_full"
    hard: ClassVar[bool] = True

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        return [self.is_full(replica, request.tenant) for replica in replicas]

    def is_full(self, replica: ReplicaView, tenant: TenantId | None = None) -> bool:
        """Report whether the replica's queue takes no more of a tenant; None: of one that waits."""
        if replica.queued + len(replica.uncounted) < self.max_queued:
            return False
        return tenant is None or replica.may_have(tenant)


@dataclass(frozen=True, slots=True)
class FitsContext:
    """Prompt and answer fit the replica's context window, where it has told one."""

    name: ClassVar[str] = "context"
    hard: ClassVar[bool] = True

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        tokens = request.prompt_tokens + request.expected_tokens
        return [0 < replica.snapshot.max_model_len < tokens for replica in replicas]


@dataclass(frozen=True, slots=True)
class HasGates:
    """Refuses replicas whose engines weigh no adapters inside the model, where it is asked for."""

    name: ClassVar[str] = "no_gates"
    hard: ClassVar[bool] = True

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        return [request.gates and not replica.snapshot.gates for replica in replicas]


@dataclass(frozen=True, slots=True)
class NotLeaving:
    """Not a replica that the controller is about to end; it serves until it says no itself."""

    name: ClassVar[str] = "leaving"
    hard: ClassVar[bool] = False

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del request
        leaving = moment.draining
        return [replica.replica_id in leaving for replica in replicas]


@dataclass(frozen=True, slots=True)
class Fresh:
    """Refuses replicas that have been silent for long."""

    stale_after_s: float = STALE_AFTER_S
    name: ClassVar[str] = "stale"
    hard: ClassVar[bool] = False

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del request
        oldest = moment.now - self.stale_after_s
        return [replica.heard_at < oldest for replica in replicas]


@dataclass(frozen=True, slots=True)
class NotFailed:
    """Refuses replicas where loading one of the request's adapters failed."""

    name: ClassVar[str] = "load_failed"
    hard: ClassVar[bool] = False

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        return [
            bool(replica.failed) and not replica.failed.isdisjoint(request.digests)
            for replica in replicas
        ]


@dataclass(frozen=True, slots=True)
class BesidePins:
    """Refuses replicas whose pins leave too few slots for the request's adapters."""

    name: ClassVar[str] = "pins"
    hard: ClassVar[bool] = False

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del moment
        return [
            bool(replica.pinned)
            and len(replica.pinned.union(request.digests)) > replica.snapshot.slots_total
            for replica in replicas
        ]


@dataclass(frozen=True, slots=True)
class LoadGuard:
    """Bounds the load of replicas whose batch is full, in case the cost model is wrong.

    A replica with free places is never refused: filling them costs less than a load elsewhere.
    """

    bound: float  # times the mean load, >= 1
    name: ClassVar[str] = "guard"
    hard: ClassVar[bool] = False

    def refused(
        self, replicas: Sequence[ReplicaView], request: PickRequest, moment: Moment
    ) -> Sequence[bool]:
        del request
        limit = self.bound * moment.mean_load + 1.0
        return [r.load > limit and r.load >= r.snapshot.max_batch_size for r in replicas]
