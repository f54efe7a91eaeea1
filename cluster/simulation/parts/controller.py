"""The simulated controller: the real reconciler, asked once a tick, behind calls that take time."""

from collections.abc import Callable
from datetime import UTC, datetime

from cluster.adapters.residency.residency_types import PlacementAck
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import ReplicaPlan
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.rates import DemandRates
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.parts.controller_book import ControllerBook
from cluster.simulation.parts.scaling import RuledScale, with_count
from cluster.simulation.parts.simulated_serve import SimulatedServe
from cluster.simulation.parts.simulation_records import Records
from cluster.simulation.replica.simulated_adapters import SimulatedCatalog
from cluster.simulation.replica.simulated_replica import SimulatedReplica
from cluster.simulation.spec import Delays
from cluster.simulation.virtual.virtual_process import VirtualProcess

DEMAND_S = 10.0
"""Between two writes of the demand to the store."""
SHORTEST_PAUSE_S = 0.1
"""Between two ticks, where one is asked for at once."""


class SimulatedController:
    """One life of the controller.

    Args:
        policy: in force; asked each tick.
        book: what outlives it in the store.
        restore: whether it reads what earlier lives left.
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
        now = process.clock.monotonic()
        demand, history = book.read() if restore else (None, [])
        rates = DemandRates.from_state(demand, now) if demand is not None else None
        self._reconciler = Reconciler(0, prior, rates=rates, policy=policy())
        self._reconciler.restore_history(history)
        self._demand_at = now
        self._known: dict[ReplicaId, SimulatedReplica] = {}  # to call, until known to be dead
        self._told: int | None = None  # the count last handed to Serve, until it has it
        self._turn = 0  # names the look that is awaited
        self._looked_at = -delays.tick_s
        self._await_look(0.0)

    # From fronts

    def report(self, report: FrontReport, answer: Callable[[FrontOrders], None]) -> None:
        """Take in a report that has just arrived, and answer it."""
        now = self.process.clock.monotonic()
        if self._scale is not None:
            self._scale.hear_front(report, now)
        answer(self._reconciler.hear_front(report, now))
        if report.held and self._serve.target == 0 and self._reconciler.leadership.leads:
            self._hand_on(1)
        if report.dead or report.held:
            pause = self._looked_at + SHORTEST_PAUSE_S - self.process.loop.time()
            self._await_look(max(0.0, pause))

    # Each tick

    def _await_look(self, seconds: float) -> None:
        self._turn += 1
        self.process.after(seconds, self._look, self._turn)

    def _look(self, turn: int) -> None:
        """Ask every replica that Serve has; a tick follows with what they answered."""
        if turn != self._turn:
            return
        self._looked_at = self.process.loop.time()
        self._await_look(self._delays.tick_s)
        for replica in self._serve.replicas:
            self._known.setdefault(replica.replica_id, replica)
        answers: list[ReplicaSnapshot] = []
        asked_at = self.process.clock.monotonic()
        self.process.after(self._delays.call_s, self._ask, answers)
        self.process.after(2 * self._delays.call_s, self._tick, answers, asked_at)

    def _ask(self, answers: list[ReplicaSnapshot]) -> None:
        """Collect snapshots; runs in the replicas' processes."""
        answers += [
            replica.snapshot() for replica in self._known.values() if replica.process.responds
        ]

    def _tick(self, answers: list[ReplicaSnapshot], asked_at: float) -> None:
        now, wall = self.process.clock.monotonic(), self.process.clock.wall()
        policy, reconciler = self._policy(), self._reconciler
        self._keep_right(now)
        for snapshot in answers:
            reconciler.hear_replica(snapshot, now, asked_at=asked_at)
            if self._scale is not None:
                self._scale.hear_replica(snapshot)
        for replica in [r for r in self._known.values() if not r.process.alive]:
            del self._known[replica.replica_id]
            reconciler.replica_died(replica.replica_id, now, "its process has ended")
            self._records.note_death(replica.replica_id)
        serve, ruled = self._serve, None
        if self._scale is not None:
            ruled = self._scale.decide(policy, now, wall)
            policy = with_count(policy, ruled[0])
        actions = reconciler.tick(
            self._catalog.infos,
            policy,
            ServeCounts(serve.target, serve.running, serve.starting),
            now,
            datetime.fromtimestamp(wall, UTC),
            replicas=serve.listed(),
        )
        self._book.add_lines(actions.changes)
        count, reason = ruled or (actions.replica_count, actions.replica_reason)
        if reconciler.leadership.leads and policy.replicas.mode != "observe":
            self._hand_on(count)
        self._records.note_tick(actions, count, reason)
        for plan in actions.replica_plans:
            told = self._known.get(plan.replica_id)
            if told is not None:
                told.process.after(self._delays.call_s, self._apply, told, plan)

    def _keep_right(self, now: float) -> None:
        """Get the right to act where it is missing, and leave the demand to a later life."""
        reconciler = self._reconciler
        if not reconciler.leadership.leads:
            epoch = self._book.take_epoch()
            if epoch is not None:
                reconciler.lead(epoch, now)
        elif now - self._demand_at >= DEMAND_S:
            self._demand_at = now
            self._book.write_demand(reconciler.demand_state(now))

    def _hand_on(self, count: int) -> None:
        """Tell Serve the count, where it has another one and was not told yet."""
        if count == self._serve.target:
            self._told = None
        elif count != self._told:
            self._told = count
            loop = self.process.loop
            loop.at(loop.time() + self._delays.target_s, self._serve.set_target, count)

    # Plans

    def _apply(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        """Hand a plan over; runs in the replica's process."""
        self._records.note_plan(plan.replica_id, plan.desired)
        replica.process.loop.create_task(self._carry_out(replica, plan))

    async def _carry_out(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        ack = await replica.adapters.apply_placement(plan.desired, plan.version)
        if replica.process.responds:
            self.process.after(self._delays.call_s, self._acknowledge, plan.replica_id, ack)

    def _acknowledge(self, replica_id: ReplicaId, ack: PlacementAck) -> None:
        self._reconciler.acknowledge(
            replica_id,
            ack.version,
            loaded=ack.loaded,
            failed={digest: f"{code}: {message}" for digest, code, message in ack.failed},
            evicted=ack.evicted,
            policy=self._policy(),
            now=self.process.clock.monotonic(),
        )
