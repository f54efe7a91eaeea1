"""Keeps, from tick to tick, the planner's inputs and what its plans changed."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import PlanVersion
from cluster.placement.control.backoff import PrefetchBackoff
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.history import History
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import AdapterSet, Demand
from cluster.placement.planning import reasons
from cluster.placement.planning.budget import ChurnBudget
from cluster.placement.planning.pins import ResolvedPins, resolve_pins
from cluster.placement.planning.plan import AdapterInfo, MoveKind, Plan, PlanInputs
from cluster.placement.planning.rules import rules_of
from cluster.placement.policy import AdapterRule, ClusterPolicy
from cluster.placement.policy.tiers import replicas_promised
from cluster.placement.scaling.inputs import ReplicaShape
from cluster.placement.scaling.wishes import busy_costs


class Placing:
    """One owner. Times are monotonic seconds."""

    def __init__(self, fleet: Fleet, history: History) -> None:
        self.adapters: tuple[AdapterInfo, ...] = ()
        self.pins: dict[AdapterDigest, int] = {}  # least copies
        self.replicas_needed = 0
        """Replicas that pins of adapters in the catalog and tiers with tenants need."""
        self._catalog: tuple[AdapterInfo, ...] = ()
        self._rules: tuple[AdapterRule, ...] = ()
        self._resolved = ResolvedPins()  # of this catalog and these rules
        self._policy, self._tenants = ClusterPolicy(), frozenset[TenantId]()
        self._promised = 1  # replicas that this policy's tiers need for these tenants
        self._fleet = fleet
        self._history = history
        self._backoff = PrefetchBackoff()
        self._churn = ChurnBudget()
        self._copies: dict[AdapterSet, int] = {}  # where more than one
        self._moved: dict[AdapterDigest, float] = {}  # when last, by no promise
        self._noted: tuple[str, Collection[tuple[ReplicaId, AdapterDigest]]] = ("", ())
        """Kind and places of the last plan's prefetches."""

    def observe(
        self, catalog: Iterable[AdapterInfo], policy: ClusterPolicy, tenants: Collection[TenantId]
    ) -> None:
        """Take in the catalog, and forget what it does not list any more.

        A tuple that is the last tick's is known not to have changed.

        Args:
            tenants: those of the tenants file.
        """
        listed = tuple(catalog)
        if listed is not self._catalog or policy.adapters != self._rules:
            self._catalog, self._rules = listed, policy.adapters
            self._resolved = resolve_pins(policy.adapters, listed)
        self.adapters = _as_measured(listed, self._fleet)
        self._history.aliases = {info.digest: info.alias for info in self.adapters}
        self._fleet.forget_unlisted(self._history.aliases.keys())
        self._backoff.retain(self._fleet.members, self._history.aliases)
        self.pins = self._resolved.least_copies(len(self._fleet.members))
        if policy is not self._policy or tenants != self._tenants:
            self._policy, self._tenants = policy, frozenset(tenants)
            self._promised = replicas_promised(policy, tenants)
        pinned = self._resolved.replicas_needed(policy.replicas.max)
        self.replicas_needed = max(pinned, self._promised)

    @property
    def unknown_pins(self) -> tuple[str, ...]:
        """Return a message for each rule that names no adapter."""
        return self._resolved.unknown

    def inputs(
        self,
        demand: Demand,
        model: CostModel,
        policy: ClusterPolicy,
        shape: ReplicaShape | None,
        leaving: frozenset[ReplicaId],
        own_weights: Mapping[TenantId, float],
        now: float,
    ) -> PlanInputs | None:
        """Return what the planner goes by, or None if no replica can take adapters.

        Args:
            own_weights: of tenants, by their file.
        """
        rooms = self._fleet.rooms(now, leaving)
        if not rooms or shape is None:
            return None
        tenants = {rate.key.tenant for rate in demand.rates}
        rules = rules_of(policy, own_weights, tenants)
        self._moved = {d: at for d, at in self._moved.items() if now - at < rules.payback_s}
        pools = [room.bytes_limit for room in rooms]
        nbytes = {info.digest: info.nbytes for info in self.adapters}
        return PlanInputs(
            replicas=rooms,
            adapters=self.adapters,
            demand=demand,
            rules=rules,
            work=busy_costs(policy, model, demand, shape, nbytes),
            load=model.disk_load,
            churn=self._churn.left(int(rules.churn * sum(pools)), max(pools), now),
            pins={digest: min(copies, len(rooms)) for digest, copies in self.pins.items()},
            most={
                digest: max(copies, self.pins.get(digest, 0))
                for digest, copies in self._resolved.most_copies().items()
            },
            previous=self._copies,
            moved=frozenset(self._moved),
            avoid=self._backoff.avoid(now),
            lost=self._fleet.lost(leaving),
        )

    def note(self, planned: Plan, now: float, *, told: bool) -> None:
        """Remember what a plan changed, and when; ``told``: replicas receive it."""
        for one in planned.sets:
            if one.copies != one.previous:
                words = f"copies {one.previous} -> {one.copies}: {reasons.of_set(one)}"
                if not told:
                    words = f"observed only: {words}"
                self._history.record(now, "copies", words, digest=one.members[0])
        self._copies = {one.members: one.copies for one in planned.sets if one.copies > 1}
        prefetches = {
            (move.replica_id, move.digest): move
            for move in planned.moves
            if move.kind is MoveKind.PREFETCH
        }
        kind = "prefetch" if told else "would_prefetch"
        noted = self._noted[1] if self._noted[0] == kind else ()
        for (replica_id, digest), move in prefetches.items():
            if told:
                self._churn.spend(move.nbytes, now)
                if not move.promised:
                    self._moved[digest] = now
            if (replica_id, digest) not in noted:  # where plans are not sent they repeat
                self._history.record(now, kind, move.reason, replica_id, digest)
        self._noted = (kind, frozenset(prefetches))

    def give_up(self) -> None:
        """Forget the copies decided so far: nothing is placed any more."""
        self._copies = {}

    def acknowledge(
        self,
        replica_id: ReplicaId,
        *,
        loaded: Iterable[AdapterDigest],
        failed: Mapping[AdapterDigest, str],
        policy: ClusterPolicy,
        now: float,
    ) -> None:
        """Take in what a replica could bring in, and what failed, with a message for each."""
        for digest in loaded:
            self._backoff.succeeded(replica_id, digest)
        for digest, message in sorted(failed.items()):
            failure = self._backoff.failed(
                replica_id,
                digest,
                message,
                now,
                first_s=policy.placement.retry_s,
                most_s=policy.placement.max_retry_s,
            )
            wait = failure.retry_at - now
            words = f"attempt {failure.attempts}: {message}; next one in {wait:.0f} s"
            self._history.record(now, "failed", words, replica_id, digest)

    def note_evicted(
        self,
        replica_id: ReplicaId,
        version: PlanVersion,
        evicted: Iterable[AdapterDigest],
        now: float,
    ) -> None:
        """Record what a replica gave up for a plan; ``version`` is the one that it obeys."""
        for digest in evicted:
            self._history.record(now, "evicted", f"done, version {version}", replica_id, digest)

    def failures(self, now: float) -> list[dict[str, Any]]:
        """Return the failed prefetches for the admin API."""
        return self._backoff.describe(self._history.aliases, now)


def _as_measured(catalog: tuple[AdapterInfo, ...], fleet: Fleet) -> tuple[AdapterInfo, ...]:
    """Return the catalog, with sizes on devices where a replica has measured them."""
    measured: dict[AdapterDigest, int] = {}
    for member in fleet.members.values():
        for adapter in member.snapshot.resident:
            if adapter.state is AdapterState.READY:
                seen = measured.get(adapter.digest, 0)
                measured[adapter.digest] = max(seen, adapter.nbytes)
    return tuple(
        info
        if measured.get(info.digest, info.nbytes) == info.nbytes
        else replace(info, nbytes=measured[info.digest])
        for info in catalog
    )
