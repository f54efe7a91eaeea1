"""Fading counts of what replicas were sent, by tenant."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.picking.neighbours import FADED, WINDOW_S, Neighbours

NOW = 1000.0


def test_a_request_fades_and_is_then_nothing() -> None:
    counts = Neighbours()
    counts.sent("r0", "acme", NOW)
    assert counts.of_others("r0", "globex", NOW) == 1.0
    assert counts.of_others("r0", "globex", NOW + WINDOW_S) == pytest.approx(math.exp(-1))
    assert counts.of_others("r0", "globex", NOW + 4 * WINDOW_S) == 0.0
    assert counts.of_others("r0", "acme", NOW) == 0.0
    assert counts.of_others("r1", "globex", NOW) == 0.0


def test_a_lost_replica_is_forgotten() -> None:
    counts = Neighbours()
    counts.sent("r0", "acme", NOW)
    counts.remove("r0")
    counts.remove("r0")
    assert counts.of_others("r0", "globex", NOW) == 0.0


def test_a_clock_that_steps_back_makes_nothing_larger() -> None:
    counts = Neighbours()
    counts.sent("r0", "acme", NOW)
    counts.sent("r0", "acme", NOW - 100)
    assert counts.of_others("r0", "globex", NOW) == 2.0
    assert counts.of_others("r0", "globex", NOW - 100) == 2.0


def test_many_tenants_that_come_once_are_not_kept() -> None:
    counts = Neighbours()
    for number in range(5000):
        counts.sent("r0", f"tenant-{number}", NOW + number)
    assert len(counts._sent["r0"].by_tenant) <= 128


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 5)), max_size=80
    )
)
def test_others_are_all_but_oneself(arrivals: list[tuple[str, str, float]]) -> None:
    counts = Neighbours()
    now = NOW
    seen = []
    for replica, tenant, gap in arrivals:
        now += gap
        counts.sent(replica, tenant, now)
        seen.append((replica, tenant, now))
    for replica in "abc":
        for tenant in "xyz":
            expected = sum(
                math.exp(-(now - at) / WINDOW_S)
                for r, t, at in seen
                if r == replica and t != tenant
            )
            if expected < FADED * 0.99:
                expected = 0.0
            elif expected < FADED * 1.01:
                continue
            assert counts.of_others(replica, tenant, now) == pytest.approx(expected)
