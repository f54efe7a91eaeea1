"""The simulated controller: the real reconciler, asked once a tick, behind calls that take time.

It learns of a replica's death as the cluster's does: by a call that fails, or by a front whose link
has ended and a silence that confirms it.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from cluster.adapters.residency.residency_types import PlacementAck
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import ReplicaPlan
from cluster.placement.control.pauses import ANSWER_S, DEMAND_S, SHORTEST_PAUSE_S
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.fit import PriorSource
from cluster.placement.cost.model import CostModel
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


class SimulatedController:
    """One life of the controller.

    Args:
        policy: in force; asked each tick.
        source: where the costs are from that it begins with.
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
        source: PriorSource,
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
        self._reconciler = Reconciler(0, prior, source=source, policy=policy())
        self._restored = not restore
        self._demand_at = process.clock.monotonic()
        self._known: dict[ReplicaId, SimulatedReplica] = {}  # to send plans to
        self._calls: set[ReplicaId] = set()  # that are asked, and have not answered
        self._begun: set[ReplicaId] = set()  # of these, whom the present look waits for
        self._told: int | None = None  # the count last handed to Serve
        self._first_asked = False  # since the last look
        self._turn = 0  # names the look that is awaited, or under way
        self._looks = False
        self._woken = False
        self._looked_at = 0.0
        self._ticked_at = -SHORTEST_PAUSE_S
        self._await_look(0.0)

    # From fronts

    def report(self, report: FrontReport, answer: Callable[[FrontOrders], None]) -> None:
        """Take in a report that has just arrived, and answer it."""
        now = self.process.clock.monotonic()
        if self._scale is not None:
            self._scale.hear_front(report, now)
        answer(self._reconciler.hear_front(report, now))
        if report.held and self._reconciler.leadership.leads:
            self._first_asked = True
            if self._standing == 0:
                self._hand_on(1)
        if report.dead or report.held:
            self._wake()

    # Each tick

    def _wake(self) -> None:
        """Have a tick soon; one that is under way is followed by another."""
        self._woken = True
        if not self._looks:
            pause = self._ticked_at + SHORTEST_PAUSE_S - self.process.loop.now
            self._await_look(max(0.0, pause))

    def _await_look(self, seconds: float) -> None:
        self._turn += 1
        self.process.after(seconds, self._look, self._turn)

    def _look(self, turn: int) -> None:
        """Ask each replica that Serve has and that is not being asked already."""
        if turn != self._turn:
            return
        self._looks, self._woken, self._first_asked = True, False, False
        self._looked_at = self.process.loop.now
        listed = {replica.replica_id: replica for replica in self._serve.replicas}
        self._known = listed
        self._calls &= listed.keys()  # what Serve does not list any more is asked no more
        self._begun = listed.keys() - self._calls
        self.process.after(ANSWER_S, self._end_look, turn)
        for replica_id in sorted(self._begun):
            self._calls.add(replica_id)
            self._ask(listed[replica_id])
        if not self._begun:
            self.process.after(0.0, self._end_look, turn)

    def _ask(self, replica: SimulatedReplica) -> None:
        asked_at, call_s = self.process.clock.monotonic(), self._delays.call_s
        replica.process.after(call_s, self._answer, replica, asked_at)
        if not replica.process.alive:
            left = replica.process.died_at + self._delays.error_s - self.process.loop.now
            self.process.after(max(2 * call_s, left), self.hear_error, replica)

    def _answer(self, replica: SimulatedReplica, asked_at: float) -> None:
        """Answer a look; runs in the replica's process."""
        snapshot = replica.snapshot()
        self.process.after(self._delays.call_s, self._hear, snapshot, asked_at)

    def _hear(self, snapshot: ReplicaSnapshot, asked_at: float) -> None:
        now = self.process.clock.monotonic()
        self._reconciler.hear_replica(snapshot, now, asked_at=asked_at)
        if self._scale is not None:
            self._scale.hear_replica(snapshot)
        self._end_call(snapshot.replica_id)

    def hear_error(self, replica: SimulatedReplica) -> None:
        """Take in that calls to a replica fail: its process has ended."""
        replica_id = replica.replica_id
        if replica_id not in self._calls:
            return
        now = self.process.clock.monotonic()
        self._reconciler.replica_died(replica_id, now, "calls to it fail")
        self._records.note_death(replica_id)
        self._wake()
        self._end_call(replica_id)

    def _end_call(self, replica_id: ReplicaId) -> None:
        self._calls.discard(replica_id)
        if replica_id in self._begun:
            self._begun.discard(replica_id)
            if not self._begun:
                self._end_look(self._turn)

    def _end_look(self, turn: int) -> None:
        """Run the tick of a look, once all have answered or its time is over."""
        if turn != self._turn or not self._looks:
            return
        self._begun = set()
        self._tick()
        self._looks, self._ticked_at = False, self.process.loop.now
        left = self._delays.tick_s - (self._ticked_at - self._looked_at)
        self._await_look(SHORTEST_PAUSE_S if self._woken else max(SHORTEST_PAUSE_S, left))

    def _tick(self) -> None:
        now, wall = self.process.clock.monotonic(), self.process.clock.wall()
        policy, reconciler = self._policy(), self._reconciler
        self._keep_right(now)
        serve, ruled = self._serve, None
        if self._scale is not None:
            ruled = self._scale.decide(policy, now, wall)
            policy = with_count(policy, ruled[0])
        actions = reconciler.tick(
            self._catalog.infos,
            policy,
            ServeCounts(self._standing, serve.running, serve.starting),
            now,
            datetime.fromtimestamp(wall, UTC),
            replicas=serve.listed(),
        )
        self._book.add_lines(actions.changes)
        count, reason = ruled or (actions.replica_count, actions.replica_reason)
        if reconciler.leadership.leads and policy.replicas.mode != "observe":
            self._hand_on(count)
        else:
            self._told = None  # Serve's own target stands
        self._records.note_tick(actions, count, reason)
        for plan in actions.replica_plans:
            told = self._known.get(plan.replica_id)
            if told is not None:
                told.process.after(self._delays.call_s, self._apply, told, plan)

    def _keep_right(self, now: float) -> None:
        """Get the right to act where it is missing, and leave the demand to a later life."""
        reconciler = self._reconciler
        if not reconciler.leadership.leads:
            epoch = self._book.take_epoch() if self._restore(now) else None
            if epoch is not None:
                reconciler.lead(epoch, now)
        elif now - self._demand_at >= DEMAND_S:
            self._demand_at = now
            self._book.write_demand(lambda: reconciler.demand_state(now))

    def _restore(self, now: float) -> bool:
        """Take in what an earlier life has left, once; returns whether that is done."""
        left = None if self._restored else self._book.read()
        if left is not None:
            self._restored = True
            demand, history = left
            self._reconciler.restore_history(history)
            if demand is not None:
                self._reconciler.restore_demand(demand, now)
        return self._restored

    @property
    def _standing(self) -> int:
        """Return the count that is to run: the one last handed to Serve, or else its target."""
        return self._serve.target if self._told is None else self._told

    def _hand_on(self, count: int) -> None:
        """Tell Serve the count, where it was not told yet.

        A first replica that was asked for since the last look stays: the count was decided
        without it.
        """
        count = max(count, 1) if self._first_asked else count
        if count != self._standing:
            self._told = count
            loop = self.process.loop
            loop.at(loop.now + self._delays.target_s, self._serve.set_target, count)

    # Plans

    def _apply(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        """Hand a plan over; runs in the replica's process."""
        self._records.note_plan(plan.replica_id, plan.desired)
        replica.process.loop.create_task(self._carry_out(replica, plan))

    async def _carry_out(self, replica: SimulatedReplica, plan: ReplicaPlan) -> None:
        ack = await replica.adapters.apply_placement(
            plan.desired, plan.version, plan.pinned, plan.kept
        )
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
