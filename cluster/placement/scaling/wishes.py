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
from cluster.placement.scaling.schedule import bounds_at

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
    high: int  # replicas, at most
    inputs: ScaleInputs

    def load(self, present: int) -> CountWish:
        """Return the replicas whose time suffices for the work.

        Costs that were never measured ask for those that are there.
        """
        target = self.policy.replicas.target
        if self._guesses:
            return CountWish(present, "costs are not measured yet")
        count = math.ceil(self.work.up / target - 1e-9)
        return CountWish(count, f"work of {self.work.up:.2f} replicas at target {target:g}")

    def memory(self, present: int) -> CountWish:
        """Return the replicas that hold the adapters asked for.

        Where the present pools have room for them, none is added: they are to be moved. Requests
        that the most replicas would find cold as well ask for none.
        """
        curve, share = self.curve, self.policy.replicas.cold_share
        cold, best = (self.factor * curve.cold(count) for count in (present, self.high))
        fits = self._avoidable(present, self.factor) <= share
        count = curve.least(curve.cold(self.high) + share / self.factor, self.high)
        if best > share:
            words = (
                f"no count up to {self.high} brings cold requests below {100 * share:g} %, and "
                f"{count} comes within {100 * share:g} points of the best"
            )
        elif fits:
            words = "adapters fit"
        else:
            words = (
                f"working set {_bytes(curve.nbytes)} in {len(curve.room)} sets, "
                f"pools {_bytes(present * curve.pool.nbytes)} and "
                f"{present * curve.pool.slots} slots, {100 * cold:.0f} % cold above "
                f"{100 * (share + best):.2g} %"
            )
        return CountWish(min(present, count) if fits else count, words)

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
        if self._guesses:
            return False
        if self.work.down > count * replicas.target * MARGIN:
            return False
        # What is cold today says little of what will be with fewer: the most that is believed.
        if self._avoidable(count * MARGIN, MOST_FACTOR) > replicas.cold_share:
            return False
        predicted = self.inputs.predicted_ttft
        return all(
            tier.safe(self.work.down, count, predicted.get(tier.tier), present)
            for tier in self.tiers
        )

    @property
    def _guesses(self) -> bool:
        """Return whether there is work, and its seconds are those of another machine."""
        return self.work.down > 0.0 and not self.inputs.model.measured

    def _avoidable(self, replicas: float, factor: float) -> float:
        """Return the share of requests that are cold with so many replicas, and not with the most.

        The rest asks for no count: the last replicas of a long tail of adapters would be
        for fractions of a percent.
        """
        return factor * (self.curve.cold(replicas) - self.curve.cold(self.high))


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
    waiting_s = inputs.queued * costs.mean_answer_seconds(demand) if inputs.queued else 0.0
    return Needs(
        policy,
        costs.work(demand),
        curve,
        factor,
        tuple(first_tokens(policy, demand, costs).values()),
        inputs.backlog_s + waiting_s,
        bounds_at(policy.replicas, inputs.wall)[1],
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
