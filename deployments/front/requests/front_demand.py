"""Counts what a front is asked for, and what its picks promise."""

from collections.abc import Sequence

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.demand.sequence_end import count_end
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.recent_picks import RecentPicks
from deployments.front.requests.running import Running
from router_service.request_decision import RequestDecision


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
        for choice in running.choices:
            usage = choice.answer.usage
            # What a later sequence found was counted once, with the first one.
            counts = usage is not None and choice.index % running.request.n == 0
            count_end(
                self.counters,
                key,
                has_run=choice.has_run,
                generated=choice.generated,
                cached_tokens=usage.cached_tokens if usage is not None and counts else 0,
                error=error,
            )


def demand_key(tenant: TenantId, decided: RequestDecision) -> DemandKey:
    """Return the key under which a decided request counts."""
    return DemandKey(tenant, tuple(sorted(set(decided.decision.digests))))
