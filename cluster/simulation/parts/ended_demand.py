"""Counts a simulated request's end as its front's demand."""

from cluster.errors import error_from_code
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.sequence_end import count_end
from cluster.simulation.parts.tracked import Tracked


def count_ended(demand: DemandCounters, tracked: Tracked) -> None:
    """Count a request that has just ended as the cluster's fronts do."""
    first, decided = tracked.first_token_at, tracked.decided_at
    if first is not None and decided is not None:
        demand.start_answer(tracked.key, first - decided)
    answered = tracked.outcome == "ok"
    count_end(
        demand,
        tracked.key,
        has_run=answered or tracked.generated > 0,
        generated=tracked.generated,
        cached_tokens=tracked.cached_tokens,
        error=None if answered else error_from_code(tracked.outcome, ""),
    )
