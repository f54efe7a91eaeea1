"""The simulated controller: the real reconciler, asked once a tick, behind calls that take time."""

from collections.abc import Callable
from datetime import UTC, datetime

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.reconciling import (
    Actions,
    ControllerBook,
    Reconciler,
    ReplicaPlan,
    ServeCounts,
    new_reconciler,
)
from cluster.simulation.records import Records
from cluster.simulation.replica import SimulatedReplica
from cluster.simulation.scaling import RuledScale
from cluster.simulation.simulated_adapters import SimulatedCatalog
from cluster.simulation.simulated_serve import SimulatedServe
from cluster.simulation.spec import Delays
from cluster.simulation.virtual_process import VirtualProcess


class SimulatedController:
    """One life of the controller.

    Args:
        policy: in force; asked each tick.
        book: what outlives it in the store.
        scale: decides the count in place of the reconciler, or None.
    """

    def __init__(
        self,
        process: VirtualProcess,
        serve: SimulatedServe,
        catalog: SimulatedCatalog,
        policy: Callable[[], ClusterPolicy],
        prior: CostModel,
        book: ControllerBook,
        records: Records,
        delays: Delays,
        *,
        restore: bool,
        scale: RuledScale | None,
    ) -> None:
        self.process = process
        self._serve = serve
        self._catalog = catalog
        self._policy = policy
        self._book = book
        self._records = records
        self._delays = delays
        self._scale = scale
        self._reconciler: Reconciler = new_reconciler(
            book, prior, restore=restore, now=process.clock.monotonic()
        )
        self._known: dict[ReplicaId, SimulatedReplica] = {}  # to call, until known to be dead
        self._told: int | None = None  # the count last handed to Serve
        process.after(0.0, self._look)

    # From fronts

    def report(self, report: FrontReport, answer: Callable[[FrontOrders], None]) -> None:
        """Take in a report that has just arrived, and answer it."""
        now = self.process.clock.monotonic()
        if self._scale is not None:
            self._scale.hear_front(report, now)
        answer(self._reconciler.hear_front(report, now))

    # Each tick

    def _look(self) -> None:
        """Ask every replica that Serve has; a tick follows with what they answered."""
        self.process.after(self._delays.tick_s, self._look)
        for replica in self._serve.replicas:
            self._known.setdefault(replica.replica_id, replica)
        answers: list[ReplicaSnapshot] = []
        self.process.after(self._delays.call_s, self._ask, answers)
        self.process.after(2 * self._delays.call_s, self._tick, answers)

    def _ask(self, answers: list[ReplicaSnapshot]) -> None:
        """Happens in the replicas' processes."""
        answers += [
            replica.snapshot(with_loads=True)
            for replica in self._known.values()
            if replica.process.responds
        ]

    def _tick(self, answers: list[ReplicaSnapshot]) -> None:
        now, wall = self.process.clock.monotonic(), self.process.clock.wall()
        policy, reconciler = self._policy(), self._reconciler
        for snapshot in answers:
            reconciler.hear_replica(snapshot, now)
            if self._scale is not None:
                self._scale.hear_replica(snapshot)
        dead = [r for r in self._known.values() if not r.process.alive]
        for replica in dead:
            del self._known[replica.replica_id]
            reconciler.replica_died(replica.replica_id, now, "its process has ended")
            self._records.note_death(replica.replica_id)
        serve = ServeCounts(self._serve.target, self._serve.running, self._serve.starting)
        actions = reconciler.tick(
            self._catalog.infos, policy, serve, now, datetime.fromtimestamp(wall, UTC)
        )
        self._book.save(reconciler, now)
        count, reason = actions.replica_count, actions.replica_reason
        if self._scale is not None:
            count, reason = self._scale.decide(policy, actions, now, wall)
        if count != self._serve.target and count != self._told:
            self._told = count
            self.process.loop.at(
                self.process.loop.time() + self._delays.target_s, self._serve.set_target, count
            )
        elif count == self._serve.target:
            self._told = None
        self._records.note_tick(actions, count, reason)
        for plan in actions.replica_plans:
            self._send(plan, actions)

    def _send(self, plan: ReplicaPlan, actions: Actions) -> None:
        replica = self._known.get(plan.replica_id)
        if replica is not None:
            replica.process.after(self._delays.call_s, self._apply, replica, plan)

    def _apply(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        """Happens in the replica's process."""
        self._records.note_plan(plan.replica_id, plan.desired)
        replica.process.loop.create_task(self._carry_out(replica, plan))

    async def _carry_out(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        ack = await replica.adapters.apply_placement(plan.desired, plan.version)
        if replica.process.responds:
            self.process.after(
                self._delays.call_s,
                self._acknowledge,
                plan.replica_id,
                ack.version,
                ack.loaded,
                {digest: f"{code}: {message}" for digest, code, message in ack.failed},
                ack.evicted,
            )

    def _acknowledge(
        self,
        replica_id: ReplicaId,
        version: int,
        loaded: tuple[AdapterDigest, ...],
        failed: dict[AdapterDigest, str],
        evicted: tuple[AdapterDigest, ...],
    ) -> None:
        self._reconciler.acknowledge(
            replica_id,
            version,
            loaded=loaded,
            failed=failed,
            evicted=evicted,
            policy=self._policy(),
            now=self.process.clock.monotonic(),
        )
