"""Gives a baseline's scale rule what the cluster's own scaler is given."""

from collections.abc import Callable
from datetime import UTC, datetime

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.rates import DemandRates
from cluster.placement.exchange import FrontId, FrontReport
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.inputs import ReplicaShape, ScaleInputs
from cluster.placement.scaling.schedule import bounds_at
from cluster.simulation.parts.simulated_serve import SimulatedServe
from cluster.simulation.replica.simulated_adapters import SimulatedCatalog
from cluster.simulation.spec import ReplicaSpec, ScaleRule


def with_count(policy: ClusterPolicy, count: int) -> ClusterPolicy:
    """Return the policy with this count alone: a controller that wants fewer would empty some."""
    fixed = {"min": count, "max": count, "schedule": ()}
    return policy.model_copy(update={"replicas": policy.replicas.model_copy(update=fixed)})


class RuledScale:
    """Asks a scale rule each tick."""

    def __init__(
        self,
        rule: ScaleRule,
        serve: SimulatedServe,
        catalog: SimulatedCatalog,
        model: CostModel,
        shape: ReplicaSpec,
        in_flight: Callable[[], int],
    ) -> None:
        self._rule = rule
        self._serve = serve
        self._catalog = catalog
        self._model = model
        self._in_flight = in_flight
        self._shape = ReplicaShape(
            shape.slots, shape.adapter_bytes, shape.engine.max_batch_size, shape.engine.block_size
        )
        self._rates = DemandRates()
        self._reports: dict[FrontId, FrontReport] = {}
        self._snapshots: dict[ReplicaId, ReplicaSnapshot] = {}

    def hear_front(self, report: FrontReport, now: float) -> None:
        """Take in a front's report."""
        self._rates.observe(report.front, report.demand, now)
        self._reports[report.front] = report

    def hear_replica(self, snapshot: ReplicaSnapshot) -> None:
        """Take in a replica's answer."""
        self._snapshots[snapshot.replica_id] = snapshot

    def decide(self, policy: ClusterPolicy, now: float, wall: float) -> tuple[int, str]:
        """Return the count that the rule wants, within the policy's bounds, and why."""
        running = {replica.replica_id for replica in self._serve.replicas}
        self._snapshots = {r: s for r, s in self._snapshots.items() if r in running}
        backlog = sum(n for s in self._snapshots.values() for _, n in s.backlog)
        picked = sum(report.picked for report in self._reports.values())
        cold = sum(report.cold for report in self._reports.values())
        inputs = ScaleInputs(
            policy=policy,
            demand=self._rates.demand(now),
            model=self._model,
            shape=self._shape,
            adapter_bytes=self._catalog.nbytes,
            target=self._serve.target,
            ready=self._serve.running,
            starting_for_s=self._serve.starting_for_s,
            backlog_s=backlog * self._model.step.per_prefill_token,
            in_flight=self._in_flight(),
            predicted_ttft={},
            cold=cold / picked if picked else None,
            least=0,
            complete=running <= self._snapshots.keys(),
            wall=datetime.fromtimestamp(wall, UTC),
        )
        wanted = self._rule.count(inputs, inputs.in_flight, now)
        low, high = bounds_at(policy.replicas, inputs.wall)
        count = min(max(wanted, low), high)
        return count, f"{count}: the rule wants {wanted}"
