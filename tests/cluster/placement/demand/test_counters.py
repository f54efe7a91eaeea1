"""A front's totals and the controller's differences: every request counts once."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.demand.baselines import FrontBaselines
from cluster.placement.demand.counters import EVERYBODY, DemandCounters
from cluster.placement.demand.demand import DemandKey, DemandTotals


def key(number: int, members: int = 1) -> DemandKey:
    digests = sorted(f"a{number + more}" for more in range(members))
    return DemandKey(TenantId(f"t{number % 3}"), tuple(AdapterDigest(one) for one in digests))


class Books:
    """Holds what the controller has counted of one front."""

    def __init__(self) -> None:
        self.fronts = FrontBaselines()
        self.arrived = self.prompt = self.generated = self.finished = self.cached = 0

    def hear(self, report: tuple[DemandTotals, ...], now: float) -> None:
        baseline = self.fronts.open("front")
        for total in report:
            more = baseline.raise_to(total, now)
            if more is not None:
                self.arrived += more.arrived
                self.prompt += more.prompt_tokens
                self.generated += more.generated_tokens
                self.finished += more.finished
                self.cached += more.cached_tokens
        baseline.hear(now)


@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=12),
            st.sampled_from(["heard", "lost", "unanswered", "late"]),
        ),
        max_size=25,
    ),
)
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_or_counted_twice(most, rounds) -> None:
    """Reports are lost, answered into the void, repeated and late; memory stays bounded."""
    counters, books = DemandCounters(most), Books()
    late: list[tuple[DemandTotals, ...]] = []
    requests = acknowledged = sequence = 0
    for asked, fate in [*rounds, ([], "heard")]:
        for number, members in asked:
            counters.arrive(key(number, members), 7)
            counters.finish(key(number, members), 3, 2)
            requests += 1
            assert len(counters) <= most
        sequence += 1
        report = counters.changed_since(acknowledged, float(sequence))
        counters.compose(sequence, float(sequence))
        assert len(report) <= most + 1
        if fate == "lost":
            continue
        if fate == "late":
            late.append(report)
            continue
        books.hear(report, float(sequence))
        if fate == "heard":
            acknowledged = sequence
        for old in (*late, report):
            books.hear(old, float(sequence))
    assert (books.arrived, books.finished) == (requests, requests)
    tokens = (books.prompt, books.generated, books.cached)
    assert tokens == (7 * requests, 3 * requests, 2 * requests)


def test_only_changed_keys_travel() -> None:
    counters = DemandCounters()
    counters.arrive(key(1), 5)
    counters.arrive(key(2), 5)
    assert {total.key for total in counters.changed_since(0)} == {key(1), key(2)}
    counters.compose(1)
    counters.arrive(key(2), 5)
    (only,) = counters.changed_since(1)
    assert (only.key, only.arrived) == (key(2), 2)
    assert len(counters.changed_since(0)) == 2


def test_a_full_sketch_drops_what_the_controller_has() -> None:
    counters = DemandCounters(2)
    counters.arrive(key(1), 5)
    counters.arrive(key(2), 5)
    counters.compose(1)
    counters.changed_since(1)
    counters.arrive(key(3), 5)
    assert [total.key for total in counters.changed_since(1)] == [key(3)]
    counters.arrive(key(1), 5)  # it comes back, in a new life
    lives = {total.key: total.life for total in counters.changed_since(1)}
    assert lives[key(1)] > lives[key(3)]


def test_a_full_sketch_counts_by_adapter_then_by_tenant_then_for_everybody() -> None:
    counters = DemandCounters(2)
    single, base = key(1), DemandKey(TenantId("t1"), ())
    counters.arrive(single, 1)
    counters.arrive(base, 1)
    counters.arrive(DemandKey(TenantId("t1"), (AdapterDigest("a1"), AdapterDigest("a9"))), 1)
    counters.arrive(DemandKey(TenantId("t1"), (AdapterDigest("a9"),)), 1)
    counters.arrive(key(5), 1)
    found = {total.key: total.arrived for total in counters.changed_since(0)}
    assert found == {single: 2, base: 2, EVERYBODY: 1}


def test_ages_grow_from_the_report_before() -> None:
    counters = DemandCounters(now=100.0)
    counters.arrive(key(1), 5)
    counters.compose(1, 101.0)
    counters.arrive(key(2), 5)
    ages = {total.key: total.age_s for total in counters.changed_since(0, 105.0)}
    assert ages == {key(1): 5.0, key(2): 4.0}


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DemandCounters(0)


def test_many_fronts_that_come_and_go_do_not_fill_the_memory() -> None:
    fronts, rng = FrontBaselines(), random.Random(1)
    for number in range(60):
        baseline = fronts.open(f"front-{number}")
        for _ in range(10_000):
            baseline.raise_to(DemandTotals(key(rng.randrange(10**9)), 1), float(number))
        baseline.hear(float(number))
        fronts.forget_silent(float(number))
    kept = sum(len(front) for front in fronts._fronts.values())
    assert kept <= 20 * 16_384
