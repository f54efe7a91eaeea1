"""The controller's state machine: what is, what should be, and what to tell whom.

Pure: reports in, actions out; the actor around it does the talking and writes down what ``Actions``
and ``demand_state`` say. Only the controller of the highest epoch acts. One owner. Times are
monotonic seconds of its process; a wall time is for people and for schedules alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.plan_version import PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import Actions
from cluster.placement.control.attendance import Attendance
from cluster.placement.control.counting import Counting
from cluster.placement.control.drain import ServeReplicas
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.fronts import Fronts
from cluster.placement.control.history import Change, History
from cluster.placement.control.leadership import Leadership
from cluster.placement.control.learned_costs import LearnedCosts
from cluster.placement.control.placing import Placing
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.control.status import (
    describe_count,
    describe_demand,
    describe_fleet,
    describe_load,
    describe_modes,
    describe_plan,
)
from cluster.placement.cost.fit import PriorSource
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.demand.forecast import Forecast
from cluster.placement.demand.rates import DemandRates
from cluster.placement.demand.season import DAY, DayLength
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.planning.plan import AdapterInfo, Plan, PlanInputs
from cluster.placement.planning.planner import plan
from cluster.placement.planning.wanted import adapters_in_demand
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.tiers import tier_weights
from cluster.placement.scaling.schedule import bounds_at

_NOTHING = Plan(desired={}, moves=())


class Reconciler:
    """Compares the cluster with the policy once a tick, and says what to change.

    Epoch 0 is a controller that may not act yet: it listens, plans nothing and keeps the count.
    """

    def __init__(
        self,
        epoch: int,
        prior: CostModel,
        *,
        source: PriorSource = "default",
        policy: ClusterPolicy | None = None,
        history: int = 200,
        resend_s: float = 5.0,
        day: DayLength = DAY,
    ) -> None:
        """Keep ``history`` changes of a topic; repeat unacknowledged plans every ``resend_s``.

        Args:
            prior: the costs until enough was measured.
            source: where they are from.
            policy: tells fronts what to go by until the first tick brings one.
            day: after which the load is expected to come again.
        """
        self.leadership = Leadership(epoch)
        self._history = History(history)
        self._fleet = Fleet(self.leadership, self._history, resend_s)
        self._fronts = Fronts()
        self.costs = LearnedCosts(prior, source)
        self._rates = DemandRates()
        self.forecast = Forecast(day)
        self._counting = Counting(
            self._fleet, self._fronts, self._history, self.costs.starts, self.forecast
        )
        self._placing = Placing(self._fleet, self._history)
        self._attendance = Attendance()
        self._policy = policy or ClusterPolicy()
        self._least = self._policy.replicas.min  # in force
        self._model = self.costs.fit.model
        self._demand = Demand()
        self._planned = _NOTHING

    def lead(self, epoch: int, now: float) -> None:
        """Act under a new epoch from now on."""
        self.leadership.take(epoch)
        self._fleet.claim()
        self._history.record(now, "epoch", f"this controller leads, epoch {epoch}")

    # What is heard

    def hear_replica(
        self, snapshot: ReplicaSnapshot, now: float, *, asked_at: float | None = None
    ) -> None:
        """Take in a replica's answer to a call that began at ``asked_at`` (default: ``now``)."""
        new = snapshot.replica_id not in self._fleet.members
        if not self._fleet.hear(snapshot, now, now if asked_at is None else asked_at):
            return
        self.costs.hear(snapshot, now, new=new)

    def hear_front(self, report: FrontReport, now: float) -> FrontOrders:
        """Take in a front's report; the answer is what it is to go by."""
        self.leadership.learn(report.epoch)  # it refuses the orders of any lower one
        if self._fronts.hear(report, now):
            self._rates.observe(report.front, report.demand, now)
            self._fleet.doubt(report.dead, now)
        policy = self._policy
        return FrontOrders(
            acknowledged=self._fronts.acknowledged(report.front),
            epoch=self.leadership.epoch,
            model=self._model,
            draining=self._counting.draining,
            fronts=self._fronts.count(now),
            picking=policy.picking,
            tiers=policy.tenants,
            weights=tier_weights(policy.tiers),
            itls={name: tier.itl for name, tier in policy.tiers.items()},
            hold_s=policy.replicas.hold,
            retry_after_s=self.costs.starts.left(self._model.start_s, now),
            zero=self._least == 0,
        )

    def replica_died(self, replica_id: ReplicaId, now: float, why: str) -> None:
        """Take in that a replica's actor is dead, which is final."""
        self._fleet.bury(replica_id, now, why)

    def replica_unreachable(self, replica_id: ReplicaId, now: float) -> None:
        """Take in that a call to a replica failed, though its actor may live."""
        self._fleet.doubt((replica_id,), now)

    def acknowledge(
        self,
        replica_id: ReplicaId,
        version: PlanVersion,
        *,
        loaded: Iterable[AdapterDigest] = (),
        failed: Mapping[AdapterDigest, str] | None = None,
        evicted: Iterable[AdapterDigest] = (),
        policy: ClusterPolicy,
        now: float,
    ) -> None:
        """Take in a replica's answer to a plan: ``version`` is the one that it obeys now.

        ``failed`` has a message for each adapter. An answer to an older plan still teaches what
        failed. Unknown replicas are ignored.
        """
        if self._fleet.acknowledge(replica_id, version):
            self._placing.note_evicted(replica_id, version, evicted, now)
            self._placing.acknowledge(
                replica_id, loaded=loaded, failed=failed or {}, policy=policy, now=now
            )

    # A tick

    def tick(
        self,
        catalog: Iterable[AdapterInfo],
        policy: ClusterPolicy,
        serve: ServeCounts,
        now: float,
        wall: datetime,
        *,
        replicas: ServeReplicas | None = None,
    ) -> Actions:
        """Compare what is with what should be.

        Args:
            catalog: only what it lists can be placed.
            policy: the operator's.
            serve: Serve's counts.
            now: of this tick.
            wall: aware.
            replicas: Serve's list, from which it chooses who leaves; None: one node with the
                replicas that were heard of.
        """
        inputs = self.begin_tick(catalog, policy, serve, now, wall, replicas=replicas)
        return self.finish_tick(plan(inputs) if inputs is not None else None, now, wall)

    def begin_tick(
        self,
        catalog: Iterable[AdapterInfo],
        policy: ClusterPolicy,
        serve: ServeCounts,
        now: float,
        wall: datetime,
        *,
        replicas: ServeReplicas | None = None,
    ) -> PlanInputs | None:
        """Decide the count, and return the plan's inputs, or None if nothing is planned.

        ``plan`` may run in another thread meanwhile, and take longer than a tick; the
        ``finish_tick`` after it takes its answer.
        """
        fleet, counting = self._fleet, self._counting
        self._policy, self._least = policy, bounds_at(policy.replicas, wall)[0]
        for gone in fleet.review(now):
            self.costs.fit.remove_replica(gone)
        self._fronts.forget_silent(now)
        self._placing.observe(catalog, policy, self._fronts.own_weights().keys())
        self._model, self._demand = self.costs.fit.model, self._rates.demand(now)
        if replicas is not None:
            self.costs.starts.observe(replicas.replicas, fleet.members, now)
        complete = self._attendance.call(fleet.members, serve, replicas, now)
        if not self.leadership.leads:
            counting.stand_by(serve, self.leadership.words)
            self._planned = _NOTHING
            return None
        counting.decide(
            policy,
            self._demand,
            self._model,
            self._placing.adapters,
            serve,
            replicas=replicas,
            needed=adapters_in_demand(self._demand) | self._placing.pins.keys(),
            least=self._placing.replicas_needed,
            complete=complete,
            now=now,
            wall=wall,
        )
        inputs = None
        if self._attendance.opened and policy.placement.mode != "off":
            inputs = self._placing.inputs(
                self._demand,
                self._model,
                policy,
                counting.shape,
                counting.draining,
                self._fronts.own_weights(),
                now,
            )
        self._planned = self._planned if inputs is not None else _NOTHING
        return inputs

    def finish_tick(self, planned: Plan | None, now: float, wall: datetime) -> Actions:
        """Return what to do, with the plan of this tick's inputs or an earlier one's.

        ``planned`` is None if nothing is planned, and while the plan is being made.
        """
        mode, leads = self._policy.placement.mode, self.leadership.leads
        if not leads:
            planned, self._planned = None, _NOTHING
        if mode == "off" and leads and self._attendance.opened:
            self._placing.give_up()
            self._fleet.adopt(dict.fromkeys(self._fleet.members, ()))
        if planned is not None:
            self._planned = planned
            self._placing.note(planned, now, told=mode == "on")
            if mode == "on":
                self._fleet.adopt(planned.desired, self._placing.pins.keys(), planned.kept)
        sends = leads and mode != "observe"
        moves = planned.moves if planned is not None and mode == "on" else ()
        return Actions(
            epoch=self.leadership.epoch,
            replica_plans=self._fleet.plans_to_send(moves, now) if sends else (),
            replica_count=self._counting.last.count,
            replica_reason=self._counting.last.reason,
            draining=self._counting.draining,
            sets=self._planned.sets,
            moves=moves,
            unplaced=self._planned.unplaced,
            unknown_pins=self._placing.unknown_pins,
            demand=self._demand,
            wishes=self._counting.last.wishes,
            changes=self._history.stamp(now, wall),
        )

    # What others see

    def demand_state(self, now: float) -> dict[str, Any]:
        """Return demand and device for the next life, JSON-able; ages, not times."""
        return {**self._rates.to_state(now), "device": self.costs.device}

    def restore_demand(self, state: Mapping[str, Any], now: float) -> None:
        """Take in, once, what an earlier life's ``demand_state`` said; see ``DemandRates``."""
        self._rates.restore(state, now)
        self.costs.device = self.costs.device or str(state.get("device", ""))

    def restore_history(self, changes: Iterable[Change]) -> None:
        """Take in the last lines of an earlier life, oldest first."""
        self._history.restore(changes)

    @property
    def history(self) -> tuple[Change, ...]:
        """Return the last changes, newest last."""
        return self._history.changes

    def status(self, now: float) -> dict[str, Any]:
        """Return the placement with its reasons, JSON-able, for people."""
        history = self._history
        return {
            "epoch": self.leadership.epoch,
            "standing": self.leadership.words,
            "version": [self._fleet.version.epoch, self._fleet.version.number],
            "modes": describe_modes(self._policy),
            **describe_count(self._counting),
            "forecast": self.forecast.describe(self._model.start_s),
            "replicas": describe_fleet(self._fleet, history, now),
            **describe_plan(self._planned, history),
            "unknown_pins": list(self._placing.unknown_pins),
            "load": describe_load(self._demand),
            "demand": describe_demand(self._demand, history.aliases),
            "model": self.costs.fit.describe(),
            "fronts": self._fronts.count(now),
            "failures": self._placing.failures(now),
            "history": [asdict(change) for change in history.changes],
        }
