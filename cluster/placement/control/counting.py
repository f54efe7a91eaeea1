"""The replica count that Serve is to be given: the scaler's decision, by mode and after draining."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.control.drain import Drain
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.fronts import Fronts
from cluster.placement.control.history import History
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.control.starts import Starts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.count import (
    CountScaler,
    ReplicaShape,
    ScaleDecision,
    ScaleInputs,
)


@dataclass(frozen=True, slots=True)
class Counted:
    """The count of one tick."""

    count: int
    reason: str
    wishes: Mapping[str, int] = field(default_factory=dict)


class Counting:
    """One owner, asked once a tick. Times are monotonic seconds."""

    def __init__(self, fleet: Fleet, fronts: Fronts, history: History) -> None:
        self.starts = Starts()
        self.last = Counted(0, "no tick yet")
        self._fleet = fleet
        self._fronts = fronts
        self._history = history
        self._scaler = CountScaler()
        self._drain = Drain()

    @property
    def draining(self) -> frozenset[ReplicaId]:
        """Return the replicas that are about to leave."""
        return self._drain.marked

    def hold(self, serve: ServeCounts, reason: str) -> None:
        """Keep the count as it is."""
        self._drain.mark(self._fleet.members, 0, 0.0)
        self.last = Counted(serve.target, reason)

    def decide(
        self,
        policy: ClusterPolicy,
        demand: Demand,
        model: CostModel,
        adapters: Collection[AdapterInfo],
        serve: ServeCounts,
        *,
        needed: Collection[AdapterDigest],
        complete: bool,
        now: float,
        wall: datetime,
    ) -> None:
        """Decide the count to have now; it is ``last`` afterwards.

        Args:
            needed: adapters that must be ready elsewhere before a replica with them may go.
            complete: every replica that Serve counts has been heard of.
        """
        before, marked = self.last.count, self._drain.marked
        inputs = self._inputs(policy, demand, model, adapters, serve, complete, now, wall)
        self.last = self._decided(inputs, serve, needed, now)
        if self.last.count not in (serve.target, before):
            self._history.record(now, "replicas", self.last.reason)
        for replica_id in sorted(self._drain.marked - marked):
            words = "marked as the next to leave; what only it has is placed elsewhere"
            self._history.record(now, "draining", words, replica_id)

    def _decided(
        self,
        inputs: ScaleInputs,
        serve: ServeCounts,
        needed: Collection[AdapterDigest],
        now: float,
    ) -> Counted:
        policy, members = inputs.policy.replicas, self._fleet.members
        decision = _without_scaling(inputs) if policy.mode == "off" else None
        if decision is None:
            decision = self._scaler.decide(inputs, now)
        goal = decision.count - decision.drain
        if policy.mode == "observe":
            self._drain.mark(members, 0, now)
            reason = f"{serve.target}: only observed; would be {decision.reason}"
            return Counted(serve.target, reason, decision.wishes)
        if goal < serve.target and not inputs.complete:
            self._drain.mark(members, 0, now)
            reason = f"{serve.target}: {len(members)} of {serve.counted} replicas have reported"
            return Counted(max(serve.target, decision.count), reason, decision.wishes)
        falling = goal < serve.target or bool(self._drain.marked)
        self._drain.mark(members, serve.running - goal if falling else 0, now)
        count = decision.count
        # Where nothing is placed, nothing that leaves comes back elsewhere: no use to wait.
        wanted = needed if inputs.policy.placement.mode == "on" else ()
        if self._drain.done(members, wanted, drain_s=policy.down.drain, now=now):
            count = goal
        return Counted(count, decision.reason, decision.wishes)

    def _inputs(
        self,
        policy: ClusterPolicy,
        demand: Demand,
        model: CostModel,
        adapters: Collection[AdapterInfo],
        serve: ServeCounts,
        complete: bool,
        now: float,
        wall: datetime,
    ) -> ScaleInputs:
        members = self._fleet.members
        waiting_s = sum(
            model.slowness_of(replica_id) * tokens * model.step.per_prefill_token
            for replica_id, member in members.items()
            for _, tokens in member.snapshot.backlog
        )
        at_replicas = sum(m.snapshot.queued + m.snapshot.running for m in members.values())
        return ScaleInputs(
            policy=policy,
            demand=demand,
            model=model,
            shape=_shape(self._fleet),
            adapter_bytes={info.digest: info.nbytes for info in adapters},
            target=serve.target,
            ready=sum(not member.suspect for member in members.values()),
            starting_for_s=self.starts.age(now),
            backlog_s=waiting_s,
            in_flight=at_replicas + self._fronts.held(now),
            predicted_ttft=self._fronts.predicted_ttft(now),
            cold=self._fronts.cold_share(now),
            least=max((pin.copies for pin in policy.pins if pin.copies != "all"), default=0),
            complete=complete,
            wall=wall,
        )


def _without_scaling(inputs: ScaleInputs) -> ScaleDecision:
    least = inputs.policy.replicas.min
    return ScaleDecision(
        max(least, inputs.target),
        f"{least}: scaling is off",
        drain=max(0, inputs.target - least),
    )


def _shape(fleet: Fleet) -> ReplicaShape | None:
    """Return the capacity of a replica; they are alike, and any may say it."""
    for member in fleet.members.values():
        said = member.snapshot
        return ReplicaShape(said.slots_total, said.adapter_bytes_limit, said.max_batch_size)
    return None
