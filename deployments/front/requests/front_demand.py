"""Counts what a front is asked for, and what its picks promise."""

import statistics
from collections import deque
from collections.abc import Sequence

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.errors import BraidError
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontOrders
from cluster.placement.tiers import tier_of
from deployments.front.requests.running import Running
from router_service.request_decision import RequestDecision

LAST_PICKS = 64
PICK_AGE_S = 30.0
"""A pick that is older says nothing about the next one."""
REFUSED_STATUS = 503


class FrontDemand:
    """Counts requests by tenant and adapter set from the moment that they are decided.

    One that no replica took counts as well. One that its tenant's quota refuses does not: more
    replicas would not serve it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.counters = DemandCounters(now=clock.monotonic())
        self.cold = 0  # sequences sent to a replica without their whole set
        self.picked = 0
        self._tiers: dict[str, str] = {}
        self._predicted: dict[str, deque[tuple[float, float]]] = {}  # (picked at, seconds)

    def follow(self, orders: FrontOrders) -> None:
        """Take over which tenants are of which tier."""
        self._tiers = dict(orders.tiers)

    def arrive(
        self, tenant: TenantId, decided: RequestDecision, prompts: Sequence[Sequence[int]], n: int
    ) -> None:
        """Count the sequences of a request before a replica is picked for any.

        The prompt of several sequences is computed once.
        """
        key = demand_key(tenant, decided)
        for prompt in prompts:
            for number in range(n):
                self.counters.arrive(key, 0 if number else len(prompt))

    def note_pick(self, tenant: TenantId, choice: ReplicaChoice) -> None:
        """Take in what the picker expects of its choice."""
        self.picked += 1
        self.cold += not choice.whole
        tier = tier_of(self._tiers, tenant)
        if choice.predicted_ttft is not None and tier is not None:
            last = self._predicted.setdefault(tier, deque(maxlen=LAST_PICKS))
            last.append((self._clock.monotonic(), choice.predicted_ttft))

    def predicted_ttft(self) -> dict[str, float]:
        """Return the median of what recent picks expect, by tier, in seconds."""
        since = self._clock.monotonic() - PICK_AGE_S
        recent = {
            tier: [seconds for at, seconds in picks if at >= since]
            for tier, picks in self._predicted.items()
        }
        self._predicted = {tier: self._predicted[tier] for tier, found in recent.items() if found}
        return {tier: statistics.median(found) for tier, found in recent.items() if found}

    def finish(self, running: Running, error: BaseException | None) -> None:
        """Count the end of each sequence that ran, and those that no replica took."""
        key = demand_key(running.tenant.id, running.decided)
        first = running.times.first_token_at
        if first is not None:
            self.counters.start_answer(key, first - running.times.started)
        unserved = isinstance(error, BraidError) and error.status == REFUSED_STATUS
        for choice in running.choices:
            if choice.has_run:
                usage = choice.answer.usage
                cached = usage.cached_tokens if usage is not None else 0
                # What a later sequence found was counted once, with the first one.
                own = cached if choice.index % running.request.n == 0 else 0
                self.counters.finish(key, choice.generated, own)
            elif unserved:
                self.counters.refuse(key)


def demand_key(tenant: TenantId, decided: RequestDecision) -> DemandKey:
    """Return the key under which a decided request counts."""
    return DemandKey(tenant, tuple(sorted(set(decided.decision.digests))))
