"""The controller's world in virtual time: replicas that follow plans, and a front that counts."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontId, FrontReport
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy

NBYTES = 10
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Obedience:
    """A replica's answer to a plan."""

    version: PlanVersion  # that it obeys now
    loaded: tuple[AdapterDigest, ...]
    evicted: tuple[AdapterDigest, ...]


@dataclass
class FollowingReplica:
    """Follows plans at once, and loads on demand; evicts what no plan wants first."""

    replica_id: ReplicaId
    slots: int = 4
    resident: list[AdapterDigest] = field(default_factory=list)  # least recently used first
    desired: tuple[AdapterDigest, ...] = ()
    version: PlanVersion = NO_PLAN
    changes: list[tuple[PlanVersion, tuple[AdapterDigest, ...]]] = field(default_factory=list)
    sequence: int = 0

    def obey(self, told: ReplicaPlan) -> Obedience:
        """Follow a plan that is not older than the one in force."""
        before = set(self.resident)
        if told.version >= self.version:
            if set(told.desired) != set(self.desired):
                self.changes.append((told.version, told.desired))
            self.version, self.desired = told.version, told.desired
            for digest in told.desired:
                self.bring_in(digest)
        here = set(self.resident)
        loaded = tuple(digest for digest in told.desired if digest in here)
        return Obedience(self.version, loaded, tuple(sorted(before - here)))

    def bring_in(self, digest: AdapterDigest) -> None:
        """Use an adapter; it is loaded if it is not here."""
        if digest in self.resident:
            self.resident.remove(digest)
        elif len(self.resident) >= self.slots:
            free = [one for one in self.resident if one not in self.desired]
            self.resident.remove((free or self.resident)[0])
        self.resident.append(digest)

    def snapshot(self) -> ReplicaSnapshot:
        """Return its account of itself."""
        self.sequence += 1
        return ReplicaSnapshot(
            replica_id=self.replica_id,
            address=f"10.0.0.1:{self.replica_id}",
            queued=0,
            running=0,
            kv_blocks_total=1,
            kv_blocks_free=1,
            slots_total=self.slots,
            adapter_bytes_limit=NBYTES * self.slots,
            adapter_bytes_used=NBYTES * len(self.resident),
            resident=tuple(
                ResidentAdapter(digest, digest, AdapterState.READY, NBYTES, 8, 0, idle_s=idle)
                for idle, digest in enumerate(reversed(self.resident))
            ),
            draining=False,
            desired=self.desired,
            desired_version=self.version,
            sequence=self.sequence,
        )


class ControlCluster:
    """Replicas and one front, with any number of controllers; times are virtual seconds."""

    def __init__(
        self, replicas: int, adapters: Sequence[str], policy: ClusterPolicy, *, slots: int = 4
    ) -> None:
        self.policy = policy
        self.catalog = [
            AdapterInfo(AdapterDigest(name), name, TenantId("acme"), NBYTES) for name in adapters
        ]
        self.replicas = {
            ReplicaId(f"r{number}"): FollowingReplica(ReplicaId(f"r{number}"), slots)
            for number in range(replicas)
        }
        self.target = replicas
        self.now = 1000.0
        self.wall_offset_s = 0.0
        self.counters = DemandCounters(now=self.now)
        self._reports = itertools.count(1)
        self._turn = itertools.count()

    def controller(self, epoch: int = 1) -> Reconciler:
        """Make a controller without a memory."""
        return Reconciler(epoch, CostModel(), policy=self.policy)

    @property
    def serve(self) -> ServeCounts:
        """Return Serve's counts."""
        return ServeCounts(self.target, len(self.replicas), 0)

    @property
    def wall(self) -> datetime:
        """Return the wall time, which may be made to step."""
        return NOON + timedelta(seconds=self.now + self.wall_offset_s)

    def request(self, *adapters: str, count: int = 1) -> None:
        """Let requests for a set arrive, at a replica that has all of it or else at any."""
        digests = tuple(AdapterDigest(name) for name in sorted(adapters))
        for _ in range(count):
            self.counters.arrive(DemandKey(TenantId("acme"), digests), 20)
            holding = [r for r in self.replicas.values() if set(digests) <= set(r.resident)]
            everybody = [self.replicas[name] for name in sorted(self.replicas)]
            chosen = (holding or [everybody[next(self._turn) % len(everybody)]])[0]
            for digest in digests:
                chosen.bring_in(digest)

    def report(self, *, dead: Iterable[ReplicaId] = (), held: int = 0) -> FrontReport:
        """Compose the front's next report, with all totals: any controller may receive it."""
        sequence = next(self._reports)
        totals = self.counters.changed_since(0, self.now)
        self.counters.compose(sequence, self.now)
        return FrontReport(FrontId("f"), sequence, totals, dead=tuple(dead), held=held)

    def look(self, controller: Reconciler, silent: Collection[ReplicaId] = ()) -> None:
        """Let every replica that is not silent answer a controller."""
        for name, replica in sorted(self.replicas.items()):
            if name not in silent:
                controller.hear_replica(replica.snapshot(), self.now)

    def tick(self, controller: Reconciler, *, deaf: Collection[ReplicaId] = ()) -> Actions:
        """Run a controller's tick; all replicas but the ``deaf`` follow what they are sent."""
        actions = controller.tick(self.catalog, self.policy, self.serve, self.now, self.wall)
        for told in actions.replica_plans:
            if told.replica_id in self.replicas and told.replica_id not in deaf:
                answer = self.replicas[told.replica_id].obey(told)
                controller.acknowledge(
                    told.replica_id,
                    answer.version,
                    loaded=answer.loaded,
                    evicted=answer.evicted,
                    policy=self.policy,
                    now=self.now,
                )
        return actions

    def step(
        self, controller: Reconciler, *, silent: Collection[ReplicaId] = (), seconds: float = 1.0
    ) -> Actions:
        """Advance the time, have everybody report, and run a controller's tick."""
        self.now += seconds
        controller.hear_front(self.report(), self.now)
        self.look(controller, silent)
        return self.tick(controller, deaf=silent)

    def homes(self, digest: str) -> list[ReplicaId]:
        """Return the replicas that have an adapter."""
        return sorted(r for r, one in self.replicas.items() if digest in one.resident)
