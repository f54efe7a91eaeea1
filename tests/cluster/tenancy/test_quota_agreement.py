"""Any history of reservations gets the same answers from memory and from Redis, and never more
than the limits allow."""

import asyncio
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from cluster.domain.ids import TenantId
from cluster.tenancy import redis_quota
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import RedisQuota
from tests.support.manual_clock import ManualClock

LEASE = 4000.0  # longer than any history here: expiry has its own test
ACME = TenantId("acme")
LIMITS = st.builds(
    QuotaLimits,
    st.one_of(st.none(), st.integers(1, 5)),
    st.one_of(st.none(), st.integers(1, 200)),
    st.one_of(st.none(), st.integers(1, 12)),
).filter(lambda limits: not limits.unlimited)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.just(0), st.just(0)),
        st.tuples(
            st.just("reserve"),
            st.integers(0, 20),
            st.builds(
                lambda places, expected, more: QuotaAsk(places, expected, expected + more),
                st.integers(1, 12),
                st.integers(0, 250),
                st.integers(0, 2000),
            ),
        ),
        st.tuples(st.just("settle"), st.integers(0, 20), st.integers(0, 250)),
        st.tuples(st.just("wait"), st.integers(0, 40_000), st.just(0)),
    ),
    max_size=40,
)


async def play(quota, clock, limits, steps):
    """Return all verdicts, without their source; milliseconds pass as the steps say."""
    verdicts, last = [], {}
    for kind, number, what in steps:
        if kind == "wait":
            clock.advance(number / 1000)
        elif kind == "settle":
            if number in last:
                await quota.settle(last[number], what)
        elif kind == "enter":
            entered = await quota.enter(ACME, limits, f"e{len(verdicts)}")
            verdicts.append((entered.allowed, entered.requests, entered.retry_after_s))
        else:
            verdict = await quota.reserve(ACME, limits, f"r{number}", what)
            if verdict.allowed:
                last[number] = verdict
            verdicts.append(replace(verdict, source=QuotaSource.LOCAL))
    return verdicts


@pytest.mark.redis
@settings(max_examples=40, deadline=None)
@given(limits=LIMITS, steps=STEPS)
def test_memory_and_redis_agree(redis_url, limits, steps):
    async def scenario():
        clock = ManualClock()
        memory = MemoryQuota(clock, LEASE)
        expected = await play(memory, clock, limits, steps)
        memory.check_integrity()
        clock = ManualClock()
        client = Redis.from_url(redis_url)
        try:
            await client.flushdb()
            shared = RedisQuota(
                client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock
            )
            with patch.object(redis_quota, "LEASE_S", LEASE):
                assert await play(shared, clock, limits, steps) == expected
            assert shared.fallbacks == 0
        finally:
            await client.aclose()

    asyncio.run(scenario())


@given(
    limit=st.integers(1, 20),
    gaps=st.lists(st.integers(0, 20_000), max_size=60),
)
def test_no_window_lets_through_more_than_burst_and_rate(limit, gaps):
    clock = ManualClock()
    quota = MemoryQuota(clock, LEASE)
    allowed = []
    for number, gap in enumerate(gaps):
        clock.advance(gap / 1000)
        limits = QuotaLimits(requests_per_minute=limit)
        if quota.enter_now(ACME, limits, f"r{number}").allowed:
            allowed.append(clock.wall())
    for first in range(len(allowed)):
        for last in range(first, len(allowed)):
            span = allowed[last] - allowed[first]
            assert last - first + 1 <= limit + span * limit / 60 + 1e-3
