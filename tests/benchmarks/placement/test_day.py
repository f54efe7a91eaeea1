"""The day asks for what its page says, and judges the rivals that take no more replica-hours."""

from collections import Counter

import pytest

from benchmarks.placement.simulation.compared import Compared
from benchmarks.placement.simulation.day import (
    ATTAINED,
    FAILED,
    HOURS,
    LOADED,
    POLICY,
    day_recipe,
    row_of,
)
from benchmarks.placement.simulation.day_trace import (
    ADVERSARY,
    CROWD_S,
    CROWDED,
    DAY_S,
    NOON_S,
    TIERS,
    DaySource,
)
from cluster.simulation.report.promises import UNPROMISED, tier_name
from cluster.simulation.trace import TraceRequest


@pytest.fixture(scope="module")
def requests() -> list[TraceRequest]:
    return list(DaySource().requests(1))


def test_one_tenant_has_a_crowd(requests: list[TraceRequest]) -> None:
    crowded, alike = (
        [request for request in requests if request.tenant == tenant]
        for tenant in (CROWDED, "standard-b-0")
    )
    begin, end = CROWD_S

    def within(found: list[TraceRequest]) -> int:
        return sum(begin < request.at <= end for request in found)

    assert 4 < within(crowded) / within(alike) < 6
    before = [sum(request.at < begin for request in found) for found in (crowded, alike)]
    assert before[0] == pytest.approx(before[1], rel=0.3)


def test_nobody_asks_twice_for_what_the_adversary_asks_for_once(
    requests: list[TraceRequest],
) -> None:
    asked = Counter(request.adapters for request in requests if request.tenant == ADVERSARY)
    once = [count for adapters, count in asked.items() if adapters[0].startswith("once")]
    assert len(once) > 150
    assert set(once) == {1}
    assert tier_name(POLICY, ADVERSARY) == UNPROMISED


def test_tiers_share_the_load_as_they_say(requests: list[TraceRequest]) -> None:
    counts = Counter(
        tier_name(POLICY, request.tenant)
        for request in requests
        if request.tenant not in (ADVERSARY, CROWDED)
    )
    gold, standard, batch = (counts[tier.name] for tier in TIERS)
    assert standard / gold == pytest.approx(1.5, rel=0.1)
    assert batch / gold == pytest.approx(2.0, rel=0.1)
    noon = sum(abs(request.at - NOON_S) < 100 for request in requests)
    midnight = sum(min(request.at, DAY_S - request.at) < 100 for request in requests)
    assert noon > 5 * midnight


def test_every_request_fits_a_replica() -> None:
    spec = day_recipe()(1)
    longest = max(asked.prompt_tokens + asked.max_tokens for asked in spec.trace)
    assert longest <= spec.shape.engine.max_model_len


def compared(attained: float, hours: float) -> Compared:
    """Return a rival that attains so much more in the first tier and takes so many more hours."""
    first = next(iter(ATTAINED.values()))
    more = {first: attained, HOURS: hours}
    return Compared(
        (("Braid", ""), ("rival", "")),
        {
            figure: ((0.5, 0.5), (0.5 + more.get(figure, 0.0),) * 2)
            for figure in (*ATTAINED.values(), HOURS, LOADED, FAILED)
        },
    )


def test_a_rival_that_attains_more_wins_only_without_more_hours() -> None:
    assert row_of(compared(0.0, 0.0)).met is True
    assert row_of(compared(0.1, 0.0)).met is False
    assert row_of(compared(0.1, -1.0)).met is False
    assert row_of(compared(-0.1, -1.0)).met is True
    bought = row_of(compared(0.1, 1.0))
    assert bought.met is True
    assert "more hours, not judged" in bought.interval
    assert "ahead of Braid: rival in gold" in row_of(compared(0.1, 0.0)).after
