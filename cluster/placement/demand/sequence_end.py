"""Counts the end of a sequence as demand: a front and a simulated one count alike."""

from cluster.errors import BraidError
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey

UNSERVED_STATUS = 503
"""Of an error that more replicas would have spared."""


def count_end(
    counters: DemandCounters,
    key: DemandKey,
    *,
    has_run: bool,
    generated: int,
    cached_tokens: int,
    error: BaseException | None,
) -> None:
    """Count a sequence that has ended, whatever its end was.

    One that no replica has computed is refused demand if there was no room or no replica for it.
    Ended otherwise, it says nothing.

    Args:
        has_run: a replica has computed its prompt.
        cached_tokens: of its prompt, which needed no computing.
    """
    if has_run:
        counters.finish(key, generated, cached_tokens)
    elif isinstance(error, BraidError) and error.status == UNSERVED_STATUS:
        counters.refuse(key)
