"""Counts what a front is asked for, and what its picks promise."""

from collections.abc import Sequence

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.errors import BraidError
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.recent_picks import RecentPicks
from deployments.front.requests.running import Running
from router_service.request_decision import RequestDecision

REFUSED_STATUS = 503


class FrontDemand:
    """Counts requests by tenant and adapter set from the moment that they are decided.

    One that no replica took counts as well. One that its tenant's quota refuses does not: more
    replicas would not serve it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.counters = DemandCounters(now=clock.monotonic())
        self.picks = RecentPicks()

    def follow(self, orders: FrontOrders) -> None:
        """Take over which tenants are of which tier."""
        self.picks.follow(orders.tiers)

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
        self.picks.note(
            tenant,
            whole=choice.whole,
            predicted_ttft=choice.predicted_ttft,
            now=self._clock.monotonic(),
        )

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
