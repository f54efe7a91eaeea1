"""The replica count for Serve: the scaler's decision, by mode, and after draining."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.control.drain import Drain, ServeReplica, ServeReplicas
from cluster.placement.control.fleet import Fleet
from cluster.placement.control.fronts import Fronts
from cluster.placement.control.history import History
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.control.starts import Starts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.demand.forecast import Forecast
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.count import (
    CountScaler,
    ReplicaShape,
    ScaleInputs,
)


@dataclass(frozen=True, slots=True)
class Counted:
    """The count of one tick."""

    count: int
    reason: str
    wishes: Mapping[str, int] = field(default_factory=dict)


NO_TICK_YET = Counted(0, "no tick yet")


class Counting:
    """One owner, asked once a tick. Times are monotonic seconds."""

    def __init__(
        self, fleet: Fleet, fronts: Fronts, history: History, starts: Starts, forecast: Forecast
    ) -> None:
        self.last = NO_TICK_YET
        self._fleet = fleet
        self._fronts = fronts
        self._history = history
        self._starts = starts
        self._forecast = forecast
        self._scaler = CountScaler(forecast)
        self._drain = Drain()
        self.shape: ReplicaShape | None = None
        """The capacity of a replica, also while none runs; None: none has reported yet."""
        self._ready = 0
        self._steps: dict[ReplicaId, int] = {}  # of each replica's engine, at the last look
        self.draining: frozenset[ReplicaId] = frozenset()
        """Replicas that are about to leave."""

    def hold(self, serve: ServeCounts, reason: str) -> None:
        """Keep the count as it is."""
        self._drain, self.draining = Drain(), frozenset()
        self.last = Counted(serve.target, reason)

    def stand_by(self, serve: ServeCounts, reason: str) -> None:
        """Leave the count to another controller, and begin with its count afterwards."""
        self._scaler = CountScaler(self._forecast)
        self.hold(serve, reason)

    def decide(
        self,
        policy: ClusterPolicy,
        demand: Demand,
        model: CostModel,
        adapters: Collection[AdapterInfo],
        serve: ServeCounts,
        *,
        replicas: ServeReplicas | None,
        needed: Collection[AdapterDigest],
        least: int,
        complete: bool,
        now: float,
        wall: datetime,
    ) -> None:
        """Decide the count to have now; it is ``last`` afterwards.

        Args:
            replicas: Serve's list, from which it chooses who leaves; None: one node with the
                replicas that were heard of.
            needed: adapters that must be ready elsewhere before a replica with them may go.
            least: replicas that pins and tiers need.
            complete: every replica that Serve counts has been heard of.
        """
        before, marked = self.last.count, self.draining
        inputs = self._inputs(policy, demand, model, adapters, serve, least, complete, now, wall)
        self.last = self._decided(inputs, serve, replicas or self._listed(), needed, now)
        if self.last.count not in (serve.target, before):
            self._history.record(now, "replicas", self.last.reason)
        for replica_id in sorted(self.draining - marked):
            words = "marked as the next to leave; what only it has is placed elsewhere"
            self._history.record(now, "draining", words, replica_id)

    def _decided(
        self,
        inputs: ScaleInputs,
        serve: ServeCounts,
        replicas: ServeReplicas,
        needed: Collection[AdapterDigest],
        now: float,
    ) -> Counted:
        policy = inputs.policy.replicas
        decision = self._scaler.decide(inputs, now)
        if policy.mode == "observe":
            self.hold(serve, decision.reason)
            return Counted(serve.target, decision.reason, decision.wishes)
        if decision.count < serve.target and not inputs.complete:
            heard = len(self._fleet.members)
            self.hold(serve, f"{serve.target}: {heard} of {serve.counted} replicas have reported")
            return Counted(serve.target, self.last.reason, decision.wishes)
        # Where nothing is placed or no replica stays, there is nowhere to hand anything over to.
        places = inputs.policy.placement.mode == "on"
        step = self._drain.look(
            decision.count,
            serve.target,
            replicas,
            sole=self._sole(needed) if places and 0 < decision.count < serve.target else (),
            drain_s=policy.down.drain,
            now=now,
        )
        self.draining = step.draining
        for replica_id in step.surprises:
            self._fleet.bury(replica_id, now, "it left although another one was marked")
        return Counted(step.count, decision.reason, decision.wishes)

    def _worked(self) -> int:
        """Return how many replicas have served requests since the last look.

        No front may have reached this controller meanwhile.
        """
        before = self._steps
        self._steps = {
            replica_id: member.snapshot.work.steps.steps
            for replica_id, member in self._fleet.members.items()
        }
        return sum(steps > before.get(name, steps) for name, steps in self._steps.items())

    def _sole(self, needed: Collection[AdapterDigest]) -> frozenset[ReplicaId]:
        """Return the replicas that alone serve an adapter of ``needed``, the marked ones apart."""
        staying = self._fleet.staying(self.draining)
        copies = Counter(digest for member in staying.values() for digest in member.ready)
        return frozenset(
            replica_id
            for replica_id, member in self._fleet.members.items()
            for digest in member.ready.intersection(needed)
            if copies[digest] <= (replica_id in staying)
        )

    def _listed(self) -> ServeReplicas:
        members = sorted(self._fleet.members.items(), key=lambda item: item[1].joined)
        return ServeReplicas(tuple(ServeReplica(replica_id, "") for replica_id, _ in members))

    def _inputs(
        self,
        policy: ClusterPolicy,
        demand: Demand,
        model: CostModel,
        adapters: Collection[AdapterInfo],
        serve: ServeCounts,
        least: int,
        complete: bool,
        now: float,
        wall: datetime,
    ) -> ScaleInputs:
        members = self._fleet.members
        ready = sum(not member.suspect for member in members.values())
        # What waited at one whose link is lost is sent elsewhere, and waits there.
        lines = {
            replica_id: member.snapshot
            for replica_id, member in members.items()
            if not member.suspect and member.doubted_at is None
        }
        if ready != self._ready:
            self._fronts.forget_cold()
        self._ready, self.shape = ready, _shape(self._fleet) or self.shape
        waiting_s = sum(
            model.slowness_of(replica_id) * tokens * model.step.per_prefill_token
            for replica_id, said in lines.items()
            for _, tokens in said.backlog
        )
        at_replicas = sum(m.snapshot.queued + m.snapshot.running for m in members.values())
        return ScaleInputs(
            policy=policy,
            demand=demand,
            model=model,
            shape=self.shape,
            adapter_bytes={info.digest: info.nbytes for info in adapters},
            target=serve.target,
            ready=ready,
            starting_for_s=self._starts.age(now),
            backlog_s=waiting_s,
            in_flight=at_replicas + self._fronts.held(now) + self._worked(),
            predicted_ttft=self._fronts.predicted_ttft(now),
            cold=self._fronts.cold_share(now),
            least=least,
            complete=complete,
            wall=wall,
            queued=sum(model.slowness_of(r) * said.queued for r, said in lines.items()),
        )


def _shape(fleet: Fleet) -> ReplicaShape | None:
    """Return the capacity of a replica; they are alike, and any may say it."""
    for member in fleet.members.values():
        said = member.snapshot
        return ReplicaShape(
            said.slots_total, said.adapter_bytes_limit, said.max_batch_size, said.block_size
        )
    return None
