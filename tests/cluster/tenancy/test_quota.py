"""One suite over the memory and the Redis implementation of quotas."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from cluster.clock import ManualClock
from cluster.domain.ids import TenantId
from cluster.errors import QuotaExceeded
from cluster.tenancy.limits import QuotaLimits, QuotaSource, duration
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import RedisQuota

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
    """Gives every reservation an id of its own."""

    def __init__(self, quota, limits, tenant=ACME):
        self.quota, self.limits, self.tenant = quota, limits, tenant
        self.count = 0

    async def __call__(self, tokens=0):
        self.count += 1
        return await self.quota.reserve(self.tenant, self.limits, f"r{self.count}", tokens)


async def test_requests_per_minute(quota, clock):
    reserve = Caller(quota, QuotaLimits(requests_per_minute=6))
    remaining = [(await reserve()).requests.remaining for _ in range(6)]
    assert remaining == [5, 4, 3, 2, 1, 0]
    refused = await reserve()
    assert not refused.allowed
    assert refused.refused == "requests"
    assert refused.retry_after_s == 10.0
    assert refused.requests.reset_s == 60.0
    clock.advance(9.999)
    assert not (await reserve()).allowed
    clock.advance(0.001)
    assert (await reserve()).allowed
    assert not (await reserve()).allowed


async def test_tokens_are_reserved_and_settled(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=1000))
    first = await reserve(800)
    assert first.tokens.remaining == 200
    assert not (await reserve(300)).allowed
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


async def test_a_request_larger_than_the_bucket_needs_it_full(quota, clock):
    reserve = Caller(quota, QuotaLimits(tokens_per_minute=60))
    assert (await reserve(5000)).allowed
    refused = await reserve(5000)
    assert refused.retry_after_s == 60.0
    clock.advance(60)
    assert (await reserve(5000)).allowed


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


async def test_a_place_that_was_never_settled_expires(quota, clock):
    reserve = Caller(quota, QuotaLimits(max_concurrent=1))
    await reserve()
    clock.advance(LEASE - 0.001)
    assert not (await reserve()).allowed
    clock.advance(0.001)
    assert (await reserve()).allowed


async def test_a_refusal_charges_nothing(quota):
    reserve = Caller(quota, QuotaLimits(requests_per_minute=10, tokens_per_minute=100))
    await reserve(90)
    for _ in range(20):
        refused = await reserve(50)
        assert refused.refused == "tokens"
        assert refused.requests.remaining == 9
    assert (await reserve(10)).requests.remaining == 8


async def test_asking_again_with_the_same_id_charges_once(quota):
    limits = QuotaLimits(requests_per_minute=10, tokens_per_minute=100, max_concurrent=5)
    first = await quota.reserve(ACME, limits, "same", 40)
    again = await quota.reserve(ACME, limits, "same", 40)
    assert again == first
    other = await quota.reserve(ACME, limits, "other", 10)
    assert (other.requests.remaining, other.tokens.remaining, other.in_flight) == (8, 50, 2)


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
    assert (await one()).allowed
    assert (await two()).allowed
    assert not (await one()).allowed


async def test_lowered_limits_hold_at_once(quota):
    await Caller(quota, QuotaLimits(requests_per_minute=100))()
    verdict = await quota.reserve(ACME, QuotaLimits(requests_per_minute=3), "x", 0)
    assert verdict.requests.remaining == 2


async def test_many_at_once_get_exactly_the_limit(quota):
    reserve = Caller(quota, QuotaLimits(requests_per_minute=7))
    verdicts = await asyncio.gather(*(reserve() for _ in range(30)))
    assert sum(v.allowed for v in verdicts) == 7


async def test_headers_and_error(quota):
    reserve = Caller(quota, QuotaLimits(requests_per_minute=1, tokens_per_minute=1000))
    verdict = await reserve(100)
    verdict.raise_if_refused()
    assert verdict.headers() == {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
    }
    refused = await reserve(100)
    assert refused.headers()["retry-after"] == "60"
    with pytest.raises(QuotaExceeded, match=r"'acme': 1 requests per minute\. Try again in 1m0s"):
        refused.raise_if_refused()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0121, "13ms"), (1, "1s"), (1.5, "1.5s"), (59.2, "60s"), (360, "6m0s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# Redis alone


@pytest.mark.redis
async def test_without_limits_redis_is_not_asked(clock):
    client = Redis(port=1)
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0)
    verdict = await quota.reserve(ACME, QuotaLimits(), "x", 10)
    await quota.settle(verdict, 10)
    assert verdict.source is QuotaSource.UNLIMITED
    assert verdict.headers() == {}
    assert quota.fallbacks == 0


@pytest.mark.redis
async def test_the_server_s_clock_and_every_key_has_a_ttl(client, clock):
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0)
    limits = QuotaLimits(requests_per_minute=10, tokens_per_minute=100, max_concurrent=5)
    verdict = await quota.reserve(ACME, limits, "x", 50)
    assert (verdict.source, verdict.requests.remaining) == (QuotaSource.SHARED, 9)
    keys = await client.keys("*")
    assert sorted(keys) == [
        b"braid:v1:{acme}:quota:buckets",
        b"braid:v1:{acme}:quota:inflight",
        b"braid:v1:{acme}:quota:reservation:x",
    ]
    assert all([await client.pttl(key) > 0 for key in keys])
    await quota.settle(verdict, 10)
    assert all([await client.pttl(key) > 0 for key in await client.keys("*")])


@pytest.mark.redis
async def test_two_fronts_share_one_bucket(client, clock):
    fronts = [
        RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
        for _ in range(2)
    ]
    limits = QuotaLimits(requests_per_minute=3)
    verdicts = [await fronts[n % 2].reserve(ACME, limits, f"r{n}", 0) for n in range(5)]
    assert [v.allowed for v in verdicts] == [True, True, True, False, False]


class Line:
    """A TCP relay to the server that can be cut and joined."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.up = True
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.cut()
        self.server.close()
        await self.server.wait_closed()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self):
        self.up = False
        for task in self.tasks:
            task.cancel()

    async def accept(self, reader, writer):
        if not self.up:
            writer.close()
            return
        self.tasks.add(asyncio.current_task())
        out_reader, out_writer = await asyncio.open_connection(*self.target)
        try:
            await asyncio.gather(pipe(reader, out_writer), pipe(out_reader, writer))
        except (asyncio.CancelledError, OSError):
            return
        finally:
            self.tasks.discard(asyncio.current_task())
            for end in (writer, out_writer):
                end.close()


async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.redis
async def test_redis_away_counts_locally_and_settles_later(client, clock):
    where = client.connection_pool.connection_kwargs
    limits = QuotaLimits(requests_per_minute=100, tokens_per_minute=1000, max_concurrent=10)
    async with Line(where["host"], where["port"]) as line:
        weak = Redis(port=line.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        local = MemoryQuota(clock, LEASE)
        quota = RedisQuota(weak, local, clock, LEASE, 1.0, script_clock=clock)
        shared = await quota.reserve(ACME, limits, "before", 400)
        assert shared.source is QuotaSource.SHARED

        line.cut()
        with capture_logs() as logs:
            away = await quota.reserve(ACME, limits, "during", 900)
            assert (away.source, away.allowed, away.unsure) == (QuotaSource.LOCAL, True, True)
            second = await quota.reserve(ACME, limits, "during-2", 900)
            assert (second.allowed, second.unsure) == (False, False), "local limits hold"
            await quota.settle(shared, 10)
            await quota.settle(away, 100)
            assert not quota.available
            assert [entry["event"] for entry in logs] == ["quota_store_away"]

            line.up = True
            clock.advance(1.0)
            after = await quota.reserve(ACME, limits, "after", 0)
            assert [entry["event"] for entry in logs][-1] == "quota_store_back"
        assert after.source is QuotaSource.SHARED
        assert quota.available
        assert await client.zrange("braid:v1:{acme}:quota:inflight", 0, -1) == [b"after"]
        last = await quota.reserve(ACME, limits, "last", 0)
        assert last.tokens.remaining == 990 + 10, "400 reserved, 10 used, one second refilled"
        assert quota.fallbacks == 2
        local.check_integrity()
        assert local.in_flight(ACME) == 0
        await weak.aclose()


@pytest.mark.redis
async def test_a_settlement_that_finds_redis_away_is_made_good(client, clock):
    where = client.connection_pool.connection_kwargs
    limits = QuotaLimits(tokens_per_minute=1000, max_concurrent=10)
    async with Line(where["host"], where["port"]) as line:
        weak = Redis(port=line.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        quota = RedisQuota(weak, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
        verdict = await quota.reserve(ACME, limits, "x", 400)
        line.cut()
        with capture_logs():
            await quota.settle(verdict, 10)
            assert not quota.available
            line.up = True
            clock.advance(1.0)
            await quota.reserve(ACME, limits, "y", 0)
        assert await client.zrange("braid:v1:{acme}:quota:inflight", 0, -1) == [b"y"]
        await weak.aclose()


@pytest.mark.redis
async def test_a_flushed_server_forgets_without_harm(client, clock):
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
    limits = QuotaLimits(tokens_per_minute=100, max_concurrent=1)
    verdict = await quota.reserve(ACME, limits, "x", 100)
    await client.flushall()
    await client.script_flush()
    await quota.settle(verdict, 10)
    after = await quota.reserve(ACME, limits, "y", 0)
    assert (after.tokens.remaining, after.in_flight) == (100, 1)
