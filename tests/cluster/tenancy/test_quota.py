"""One suite over the memory and the Redis implementation of quotas."""

import asyncio

import pytest
from redis.asyncio import Redis

from cluster.domain.ids import TenantId
from cluster.errors import QuotaExceeded
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, duration
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import RedisQuota
from tests.support.manual_clock import ManualClock

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
LEASE = 600.0


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def client(redis_url):
    client = Redis.from_url(redis_url, socket_timeout=2)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def quota(request, clock):
    if request.param == "memory":
        return MemoryQuota(clock, LEASE)
    client = request.getfixturevalue("client")
    return RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)


class Caller:
    """Gives every request and reservation an id of its own."""

    def __init__(self, quota, limits, tenant=ACME):
        self.quota, self.limits, self.tenant = quota, limits, tenant
        self.count = 0

    async def enter(self):
        self.count += 1
        return await self.quota.enter(self.tenant, self.limits, f"e{self.count}")

    async def __call__(self, expected=0, at_most=0, places=1):
        self.count += 1
        ask = QuotaAsk(places, expected, max(expected, at_most))
        return await self.quota.reserve(self.tenant, self.limits, f"r{self.count}", ask)


async def test_requests_per_minute(quota, clock):
    caller = Caller(quota, QuotaLimits(requests_per_minute=6))
    remaining = [(await caller.enter()).requests.remaining for _ in range(6)]
    assert remaining == [5, 4, 3, 2, 1, 0]
    refused = await caller.enter()
    assert not refused.allowed
    assert refused.refused == "requests"
    assert refused.retry_after_s == 10.0
    assert refused.requests.reset_s == 60.0
    clock.advance(9.999)
    assert not (await caller.enter()).allowed
    clock.advance(0.001)
    assert (await caller.enter()).allowed
    assert not (await caller.enter()).allowed


async def test_a_reservation_takes_no_request_and_tells_what_is_left(quota):
    caller = Caller(quota, QuotaLimits(requests_per_minute=6, max_concurrent=9))
    await caller.enter()
    assert [(await caller()).requests.remaining for _ in range(3)] == [5, 5, 5]


async def test_tokens_are_reserved_and_settled(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=1000))
    first = await reserve(800)
    assert first.tokens.remaining == 200
    await quota.settle(first, 100)
    second = await reserve(300)
    assert second.allowed
    assert second.tokens.remaining == 600
    await quota.settle(second, 300)
    assert (await reserve(0)).tokens.remaining == 600


async def test_what_was_used_beyond_the_reservation_becomes_debt(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=600))
    verdict = await reserve(600)
    await quota.settle(verdict, 900)
    refused = await reserve(1)
    assert (refused.refused, refused.tokens.remaining) == ("tokens", 0)
    assert refused.retry_after_s == pytest.approx(30.1)
    clock.advance(30.1)
    assert (await reserve(1)).allowed


async def test_a_request_is_admitted_while_any_token_is_left(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=60))
    assert (await reserve(59)).tokens.remaining == 1
    large = await reserve(120)
    assert (large.allowed, large.tokens.remaining) == (True, 0)
    refused = await reserve(1)
    assert refused.retry_after_s == 120.0, "119 of debt, and one token"
    clock.advance(120)
    assert (await reserve(5000)).allowed, "larger than the bucket"


async def test_eight_sequences_run_whatever_they_may_generate(quota):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=1000))
    verdicts = [await reserve(50, 1_000_000) for _ in range(8)]
    assert all(verdict.allowed for verdict in verdicts)
    refused = await reserve(50, 1_000_000)
    assert (refused.refused, refused.retry_after_s) == ("tokens in flight", 1.0)
    with pytest.raises(QuotaExceeded, match="10 minutes of them; send a smaller max_tokens"):
        refused.raise_if_refused()
    await quota.settle(verdicts[0], 10)
    assert (await reserve(50, 1_000_000)).allowed


async def test_more_run_while_what_they_may_generate_is_ten_minutes_of_tokens(quota):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=1000))
    allowed = [await reserve(10, 1010) for _ in range(11)]
    assert [verdict.allowed for verdict in allowed] == [True] * 10 + [False]


async def test_a_request_alone_may_be_larger_than_all_bounds(quota):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=1000))
    assert (await reserve(50, 10**9, places=100)).allowed
    assert (await reserve(50, 60)).refused == "tokens in flight"


async def test_concurrency_is_capped_and_freed(quota, clock):
    reserve = Caller(quota, QuotaLimits(max_concurrent=2))
    one, two = await reserve(), await reserve()
    assert (one.in_flight, two.in_flight) == (1, 2)
    refused = await reserve()
    assert refused.refused == "concurrent requests"
    assert refused.retry_after_s == 1.0
    await quota.settle(one, 0)
    assert (await reserve()).allowed
    assert not (await reserve()).allowed


async def test_every_sequence_takes_a_place(quota):
    reserve = Caller(quota, QuotaLimits(max_concurrent=5))
    three = await reserve(places=3)
    assert three.in_flight == 3
    assert not (await reserve(places=3)).allowed
    assert (await reserve(places=2)).in_flight == 5
    await quota.settle(three, 0)
    assert (await reserve(places=3)).in_flight == 5


async def test_a_refusal_charges_nothing(quota):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=100, max_concurrent=2))
    await reserve(90)
    two = await reserve(5)
    for _ in range(20):
        refused = await reserve(50)
        assert refused.refused == "concurrent requests"
        assert refused.tokens.remaining == 5
    await quota.settle(two, 5)
    assert (await reserve(5)).tokens.remaining == 0


async def test_asking_again_with_the_same_id_charges_once(quota):
    limits = QuotaLimits(tokens_per_minute=100, max_concurrent=5)
    first = await quota.reserve(ACME, limits, "same", QuotaAsk(2, 40, 50))
    again = await quota.reserve(ACME, limits, "same", QuotaAsk(2, 40, 50))
    assert again == first
    other = await quota.reserve(ACME, limits, "other", QuotaAsk(1, 10, 10))
    assert (other.tokens.remaining, other.in_flight) == (50, 3)


async def test_settling_twice_counts_once(quota):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=100, max_concurrent=5))
    verdict = await reserve(60)
    for _ in range(3):
        await quota.settle(verdict, 20)
    assert (await reserve(0)).tokens.remaining == 80


async def test_a_settled_bucket_never_overflows(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=100))
    verdict = await reserve(60)
    clock.advance(60)
    await quota.settle(verdict, 0)
    assert (await reserve(0)).tokens.remaining == 100


async def test_tenants_do_not_share(quota):
    one = Caller(quota, QuotaLimits(requests_per_minute=1))
    two = Caller(quota, QuotaLimits(requests_per_minute=1), GLOBEX)
    assert (await one.enter()).allowed
    assert (await two.enter()).allowed
    assert not (await one.enter()).allowed


async def test_lowered_limits_hold_at_once(quota):
    await Caller(quota, QuotaLimits(requests_per_minute=100)).enter()
    verdict = await quota.enter(ACME, QuotaLimits(requests_per_minute=3), "x")
    assert verdict.requests.remaining == 2


async def test_many_at_once_get_exactly_the_limit(quota):
    caller = Caller(quota, QuotaLimits(requests_per_minute=7, max_concurrent=5))
    entered = await asyncio.gather(*(caller.enter() for _ in range(30)))
    assert sum(v.allowed for v in entered) == 7
    verdicts = await asyncio.gather(*(caller() for _ in range(30)))
    assert sum(v.allowed for v in verdicts) == 5


async def test_a_clock_that_went_back_locks_nobody_out(quota, clock):
    """A server that takes over may be behind."""
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=60))
    await quota.settle(await reserve(10), 60)
    clock._now -= 3600
    assert not (await reserve(1)).allowed
    clock.advance(1.0)
    assert (await reserve(1)).allowed


async def test_headers_and_error(quota):
    caller = Caller(quota, QuotaLimits(requests_per_minute=1, tokens_per_minute=1000))
    await caller.enter()
    verdict = await caller(100)
    verdict.raise_if_refused()
    assert verdict.headers() == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
    }
    refused = await caller.enter()
    assert refused.headers()["retry-after"] == "60"
    with pytest.raises(QuotaExceeded, match=r"'acme': 1 requests per minute\. Try again in 1m0s"):
        refused.raise_if_refused()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0121, "13ms"), (1, "1s"), (1.5, "1.5s"), (59.2, "60s"), (360, "6m0s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
