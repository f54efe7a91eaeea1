"""Predicts the time to the first token by tier, for any number of replicas."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.placement.demand.demand import Demand
from cluster.placement.demand.work_model import WorkModel
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.tiers import tier_of

SAFE = 0.8
"""Share of a tier's promise that may be used after a replica has gone."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The requests of one tier, served by replicas that share their time among all requests."""

    tier: str
    promise_s: float
    prompt_s: float  # to compute a mean prompt alone
    step_s: float  # of a step without rows
    row_s: float  # that each row adds to a step
    batch: int  # rows of a replica that is busy all the time

    def predict(self, work: float, replicas: int) -> float:
        """Return the mean time to the first token, in seconds; infinite where work piles up.

        A replica that is busy for a share of its time gives a request the rest. The time falls
        with each replica and grows with work.
        """
        busy = work / replicas if replicas > 0 else math.inf
        if busy >= 1.0:
            return math.inf
        rows = max(1.0, busy * self.batch)
        return (self.prompt_s + self.step_s + self.row_s * rows) / (1.0 - busy)

    @property
    def possible(self) -> bool:
        """Return whether idle replicas keep the promise with room to spare."""
        return self.predict(0.0, 1) <= SAFE * self.promise_s

    def safe(self, work: float, replicas: int, now_s: float | None, present: int) -> bool:
        """Return whether so many replicas keep the promise; True where none ever would.

        ``now_s`` is what fronts predict for their requests with the ``present`` number.
        """
        if not self.possible:
            return True
        predicted = self.predict(work, replicas)
        if now_s is not None and math.isfinite(predicted):
            today = self.predict(work, present)
            if today > 0.0:  # costs that are fitted to nothing predict no time
                predicted = max(predicted, now_s * predicted / today)
        return predicted <= SAFE * self.promise_s


def first_tokens(
    policy: ClusterPolicy, demand: Demand, work: WorkModel
) -> Mapping[str, FirstToken]:
    """Return the tiers that have demand."""
    prompts: dict[str, list[float]] = {}
    tiers: dict[str, str | None] = {}
    for rate in demand.rates:
        tenant = rate.key.tenant
        if tenant not in tiers:
            tiers[tenant] = tier_of(policy.tenants, tenant)
        tier = tiers[tenant]
        if tier is not None and tier in policy.tiers:
            sums = prompts.setdefault(tier, [0.0, 0.0])
            sums[0] += rate.slow
            sums[1] += rate.slow * rate.prompt_tokens
    step = work.step
    return {
        tier: FirstToken(
            tier,
            policy.tiers[tier].ttft,
            step.per_prefill_token * tokens / requests,
            step.per_step,
            step.per_decode_row,
            work.batch,
        )
        for tier, (requests, tokens) in sorted(prompts.items())
        if requests > 0.0
    }
