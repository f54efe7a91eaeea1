"""The end of a sequence counts once: as finished, as refused, or not at all."""

import pytest

from cluster.domain.ids import TenantId
from cluster.errors import BraidError, DeadlineExceeded, Overloaded, ReplicaLost, Starting
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.demand.sequence_end import count_end

KEY = DemandKey(TenantId("acme"), ())


@pytest.mark.parametrize(
    ("has_run", "error", "finished", "refused"),
    [
        (True, None, 1, 0),
        (True, ReplicaLost("gone"), 1, 0),
        (False, Overloaded("full"), 0, 1),
        (False, ReplicaLost("gone"), 0, 1),
        (False, Starting("soon"), 0, 1),
        (False, DeadlineExceeded("late"), 0, 0),
        (False, None, 0, 0),
    ],
)
def test_an_end_counts_as_what_it_was(
    has_run: bool, error: BraidError | None, finished: int, refused: int
) -> None:
    counters = DemandCounters()
    counters.arrive(KEY, 20)
    count_end(counters, KEY, has_run=has_run, generated=7, cached_tokens=16, error=error)
    (found,) = counters.changed_since(0)
    assert (found.finished, found.refused) == (finished, refused)
    assert (found.generated_tokens, found.cached_tokens) == (7 * finished, 16 * finished)
