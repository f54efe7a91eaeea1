"""Says how many replicas load, memory, waiting requests and promises ask for, and why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.demand.work_model import Work, WorkModel, work_model
from cluster.placement.policy import ClusterPolicy
from cluster.placement.scaling.first_token import FirstToken, first_tokens
from cluster.placement.scaling.inputs import ReplicaShape, ScaleInputs
from cluster.placement.scaling.memory import ColdCurve, PoolShape, cold_curve

MARGIN = 0.85
"""Share of what replicas can take that must be enough before one of them goes."""
MOST_FACTOR = 3.0
"""Times the predicted share of cold requests that a measured one is believed."""


@dataclass(frozen=True, slots=True)
class CountWish:
    """A number of replicas, and the reason for it."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Needs:
    """All that the present demand says about the number of replicas."""

    policy: ClusterPolicy
    work: Work
    curve: ColdCurve
    factor: float  # measured over predicted share of cold requests, 1 to MOST_FACTOR
    tiers: tuple[FirstToken, ...]
    backlog_s: float  # seconds of work that wait, in the whole cluster
    inputs: ScaleInputs

    def load(self) -> CountWish:
        """Return the replicas whose time suffices for the work."""
        target = self.policy.replicas.target
        count = math.ceil(self.work.up / target - 1e-9)
        return CountWish(count, f"work of {self.work.up:.2f} replicas at target {target:g}")

    def memory(self, present: int, high: int) -> CountWish:
        """Return the replicas that hold the adapters asked for.

        Where the present pools have room for them, none is added: they are to be moved.
        """
        curve, allowed = self.curve, self.policy.replicas.cold_share
        cold = self._cold(present)
        if cold <= allowed:
            return CountWish(min(present, curve.least(allowed / self.factor, high)), "adapters fit")
        return CountWish(
            curve.least(allowed / self.factor, high),
            f"working set {_bytes(curve.nbytes)} in {len(curve.room)} sets, "
            f"pools {_bytes(present * curve.pool.nbytes)} and "
            f"{present * curve.pool.slots} slots, {100 * cold:.0f} % cold above "
            f"{100 * allowed:g} %",
        )

    def missed(self) -> tuple[str, ...]:
        """Return the tiers whose requests are predicted to wait longer than promised."""
        predicted = self.inputs.predicted_ttft
        return tuple(
            tier.tier
            for tier in self.tiers
            if tier.possible and predicted.get(tier.tier, 0.0) > tier.promise_s
        )

    def queue(self, missed: tuple[str, ...]) -> CountWish:
        """Return the replicas that work off what waits in the time that one takes to start.

        What ready replicas do within the strictest of the missed promises does not count. The
        ready ones are counted, so that those under way are not asked for again.
        """
        inputs = self.inputs
        promised = min((t.promise_s for t in self.tiers if t.tier in missed), default=0.0)
        excess = self.backlog_s - inputs.ready * promised
        if not missed or excess <= 0.0:
            return CountWish(0, "no tier waits too long")
        more = math.ceil(excess / max(inputs.model.start_s, 1.0))
        words = ", ".join(f"{tier} waits {inputs.predicted_ttft[tier]:.1f} s" for tier in missed)
        return CountWish(inputs.ready + more, f"{words}; {self.backlog_s:.0f} s of work queued")

    def enough(self, count: int, present: int) -> bool:
        """Return whether ``count`` replicas would be enough, with a margin."""
        replicas = self.policy.replicas
        if self.work.down > count * replicas.target * MARGIN:
            return False
        if self._cold(count * MARGIN) > replicas.cold_share:
            return False
        predicted = self.inputs.predicted_ttft
        return all(
            tier.safe(self.work.down, count, predicted.get(tier.tier), present)
            for tier in self.tiers
        )

    def _cold(self, replicas: float) -> float:
        return self.factor * self.curve.cold(replicas)


def needs_of(inputs: ScaleInputs, shape: ReplicaShape) -> Needs:
    """Derive what the demand asks for from the cost model and the replicas' shape."""
    policy, demand = inputs.policy, inputs.demand
    costs = busy_costs(inputs.policy, inputs.model, demand, shape, inputs.adapter_bytes)
    pool = PoolShape(max(1, shape.slots), shape.adapter_bytes)
    curve = cold_curve(demand, pool, inputs.adapter_bytes)
    predicted = curve.cold(inputs.ready) if inputs.ready else 0.0
    factor = 1.0
    if inputs.cold is not None and predicted > 0.0:
        factor = min(max(inputs.cold / predicted, 1.0), MOST_FACTOR)
    return Needs(
        policy,
        costs.work(demand),
        curve,
        factor,
        tuple(first_tokens(policy, demand, costs).values()),
        inputs.backlog_s + inputs.queued * costs.mean_answer_seconds(demand),
        inputs,
    )


def busy_costs(
    policy: ClusterPolicy,
    model: CostModel,
    demand: Demand,
    shape: ReplicaShape,
    adapter_bytes: Mapping[AdapterDigest, int],
) -> WorkModel:
    """Return the costs of requests at busy replicas that keep the strictest tier's promise."""
    used = [policy.tiers[name].itl for name in policy.tenants.values() if name in policy.tiers]
    return work_model(
        model,
        demand,
        itl_s=min(used, default=math.inf),
        max_batch_size=shape.max_batch_size,
        block_size=shape.block_size,
        adapter_bytes=adapter_bytes,
    )


def _bytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"
