"""The controller's world in virtual time: replicas that follow plans, and a front that counts."""

import itertools
from collections.abc import Collection, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import PlacementAck
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.plan_version import PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.work import StepTotals, WorkTotals
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel, LoadCost
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontId, FrontReport
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.replica.engine_port import add_totals
from cluster.simulation.replica.simulated_adapters import SimulatedBank, SimulatedCatalog
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualExecutor, VirtualProcess

NBYTES = 10
PROMPT = 20  # tokens
START_S = 1000.0
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
_NO_TIME = LoadCost(0.0, 0.0)
_T = TypeVar("_T")


class FollowingReplica:
    """Follows plans and loads on demand with the adapter manager that replicas have.

    Loads take no time, so that a plan has been carried out when a call returns.
    """

    def __init__(
        self, replica_id: ReplicaId, catalog: Sequence[AdapterInfo], loop: VirtualLoop, slots: int
    ) -> None:
        self.replica_id = replica_id
        self.slots = slots
        self.sequence = 0
        self.changes: list[tuple[PlanVersion, frozenset[AdapterDigest]]] = []
        self._steps = StepTotals()
        self._loop = loop
        process = VirtualProcess(loop, replica_id, START_S)
        executor = VirtualExecutor(process)
        simulated = SimulatedCatalog(catalog, {})
        bank = SimulatedBank(
            simulated, slots, CostModel(host_load=_NO_TIME, disk_load=_NO_TIME), executor
        )
        config = AdapterConfig(slots=slots, memory_bytes=NBYTES * slots, host_bytes=2**20)
        self._adapters = AdapterManager(config, simulated, bank, bank.read, process.clock, executor)

    @property
    def resident(self) -> frozenset[AdapterDigest]:
        """Return the adapters that it can serve."""
        found = self._adapters.resident()
        return frozenset(a.digest for a in found if a.state is AdapterState.READY)

    @property
    def desired(self) -> frozenset[AdapterDigest]:
        """Return the placement in force."""
        return self._adapters.desired[0]

    @property
    def version(self) -> PlanVersion:
        """Return the version of the placement in force."""
        return self._adapters.desired[1]

    def obey(self, told: ReplicaPlan) -> PlacementAck:
        """Hand it a plan; the answer has the version that it obeys then."""
        before = self.desired
        ack = self._await(
            self._adapters.apply_placement(told.desired, told.version, told.pinned, told.kept)
        )
        if self.desired != before:
            self.changes.append((told.version, self.desired))
        return ack

    def bring_in(self, digest: AdapterDigest) -> None:
        """Use an adapter; it is loaded if it is not here."""
        self._adapters.release(self._await(self._adapters.acquire((digest,))))
        self._settle()

    def compute(self, generated: int) -> None:
        """Count the steps of a request that is alone in all of them, as the costs have them."""
        steps = StepTotals(generated, PROMPT, generated)
        done = replace(steps, seconds=CostModel().step.seconds(steps))
        self._steps = add_totals(self._steps, done)

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
            adapter_bytes_used=self._adapters.bytes_used,
            resident=self._adapters.resident(),
            draining=False,
            desired=tuple(sorted(self.desired)),
            desired_version=self.version,
            sequence=self.sequence,
            work=WorkTotals(self._steps),
        )

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        task = self._loop.create_task(work)
        self._settle()
        return task.result()

    def _settle(self) -> None:
        self._loop.run(self._loop.time())


class ControlCluster:
    """Replicas and one front, with any number of controllers; times are virtual seconds."""

    def __init__(
        self, replicas: int, adapters: Sequence[str], policy: ClusterPolicy, *, slots: int = 4
    ) -> None:
        self.policy = policy
        self.catalog = [
            AdapterInfo(AdapterDigest(name), name, TenantId("acme"), NBYTES) for name in adapters
        ]
        self.replicas: dict[ReplicaId, FollowingReplica] = {}
        self.target = replicas
        self._slots = slots
        self._loop = VirtualLoop()  # type: ignore[abstract] # of no use here: sockets, signals
        for number in range(replicas):
            self.start_replica(f"r{number}")
        self.wall_offset_s = 0.0
        self.counters = DemandCounters(now=self.now)
        self._reports = itertools.count(1)
        self._turn = itertools.count()

    @property
    def now(self) -> float:
        """Return the time, which only goes forward."""
        return START_S + self._loop.time()

    @now.setter
    def now(self, now: float) -> None:
        self._loop.run(now - START_S)

    def start_replica(self, name: str) -> None:
        """Add an empty replica."""
        replica_id = ReplicaId(name)
        replica = FollowingReplica(replica_id, self.catalog, self._loop, self._slots)
        self.replicas[replica_id] = replica

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

    def request(self, *adapters: str, count: int = 1, generated: int = 0) -> None:
        """Let requests for a set arrive, at a replica that has all of it or else at any.

        Args:
            generated: tokens of each answer, which is there at once; without any it never ends.
        """
        digests = tuple(AdapterDigest(name) for name in sorted(adapters))
        key = DemandKey(TenantId("acme"), digests)
        for _ in range(count):
            self.counters.arrive(key, PROMPT)
            holding = [r for r in self.replicas.values() if r.resident.issuperset(digests)]
            everybody = [self.replicas[name] for name in sorted(self.replicas)]
            chosen = (holding or [everybody[next(self._turn) % len(everybody)]])[0]
            for digest in digests:
                chosen.bring_in(digest)
            if generated:
                chosen.compute(generated)
                self.counters.finish(key, generated)

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
