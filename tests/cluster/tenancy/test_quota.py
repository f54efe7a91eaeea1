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
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource, duration
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import LEASE_S, RedisQuota

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


# Redis alone


@pytest.mark.redis
async def test_without_limits_redis_is_not_asked(clock):
    client = Redis(port=1)
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0)
    verdict = await quota.reserve(ACME, QuotaLimits(), "x", QuotaAsk(1, 10, 10))
    await quota.settle(verdict, 10)
    assert verdict.source is QuotaSource.UNLIMITED
    assert verdict.headers() == {}
    entered = await quota.enter(ACME, QuotaLimits(tokens_per_minute=5), "y")
    assert entered.source is QuotaSource.UNLIMITED
    assert quota.fallbacks == 0


@pytest.mark.redis
async def test_two_keys_for_each_tenant_without_a_ttl(client, clock):
    """What has none is not dropped by a full server. Nothing of an ended request stays."""
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0)
    limits = QuotaLimits(requests_per_minute=10, tokens_per_minute=100, max_concurrent=5)
    assert (await quota.enter(ACME, limits, "e")).source is QuotaSource.SHARED
    verdicts = [await quota.reserve(ACME, limits, f"r{n}", QuotaAsk(1, 9, 9)) for n in range(4)]
    assert verdicts[0].source is QuotaSource.SHARED
    keys = [b"braid:v1:{acme}:quota", b"braid:v1:{acme}:quota:leases"]
    assert sorted(await client.keys("*")) == keys
    assert [await client.pttl(key) for key in keys] == [-1, -1]
    for verdict in verdicts:
        await quota.settle(verdict, 1)
    assert await client.zrange(keys[1], 0, -1) == [b"e"], "an entry is remembered for seconds"
    fields = b"places r:e requests requests:at tokens tokens:at"
    assert sorted(await client.hkeys(keys[0])) == fields.split()


@pytest.mark.redis
async def test_two_fronts_share_one_bucket(client, clock):
    fronts = [
        RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
        for _ in range(2)
    ]
    limits = QuotaLimits(requests_per_minute=3)
    verdicts = [await fronts[n % 2].enter(ACME, limits, f"r{n}") for n in range(5)]
    assert [v.allowed for v in verdicts] == [True, True, True, False, False]


def front(client, clock):
    return RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)


async def held(client):
    return int(await client.hget("braid:v1:{acme}:quota", "places") or 0)


@pytest.mark.redis
async def test_entering_twice_with_one_id_charges_once(client, clock):
    quota = front(client, clock)
    limits = QuotaLimits(requests_per_minute=10)
    for _ in range(3):
        assert (await quota.enter(ACME, limits, "same")).requests.remaining == 9
    assert (await quota.enter(ACME, limits, "other")).requests.remaining == 8


@pytest.mark.redis
async def test_places_of_a_front_that_died_are_free_after_its_lease(client, clock):
    limits = QuotaLimits(max_concurrent=3)
    dead, alive = front(client, clock), front(client, clock)
    assert (await dead.reserve(ACME, limits, "d", QuotaAsk(2))).allowed
    mine = await alive.reserve(ACME, limits, "a", QuotaAsk(1))
    for _ in range(2):
        clock.advance(LEASE_S / 2 - 0.001)
        await alive.renew()
        assert not (await alive.reserve(ACME, limits, "b", QuotaAsk(2))).allowed
    clock.advance(0.003)
    assert (await alive.reserve(ACME, limits, "c", QuotaAsk(2))).allowed
    assert await held(client) == 3
    await alive.settle(mine, 0)
    assert await held(client) == 2


@pytest.mark.redis
async def test_a_front_that_was_silent_gets_its_places_back_where_there_is_room(client, clock):
    limits = QuotaLimits(max_concurrent=3, tokens_per_minute=1000)
    silent, other = front(client, clock), front(client, clock)
    one = await silent.reserve(ACME, limits, "one", QuotaAsk(1, 100, 100))
    two = await silent.reserve(ACME, limits, "two", QuotaAsk(2, 100, 100))
    clock.advance(LEASE_S + 1)
    third = await other.reserve(ACME, limits, "third", QuotaAsk(2, 0, 0))
    assert (third.allowed, await held(client)) == (True, 2)
    await silent.renew()
    assert await held(client) == 3, "the one that fits"
    await other.settle(third, 0)
    await silent.renew()
    assert await held(client) == 3, "the other too"
    await silent.settle(one, 10)
    await silent.settle(two, 10)
    assert await held(client) == 0
    left = await other.reserve(ACME, limits, "left", QuotaAsk(1, 0, 0))
    assert left.tokens.remaining == 1000, "refilled while it was silent"


@pytest.mark.redis
async def test_what_a_lost_server_forgot_is_told_again(client, clock):
    limits = QuotaLimits(tokens_per_minute=100, max_concurrent=3)
    quota = front(client, clock)
    verdict = await quota.reserve(ACME, limits, "x", QuotaAsk(2, 50, 50))
    await client.flushall()
    await quota.renew()
    after = await quota.reserve(ACME, limits, "y", QuotaAsk(1, 0, 0))
    assert (after.tokens.remaining, after.in_flight) == (100, 3)
    await quota.settle(verdict, 10)
    last = await quota.reserve(ACME, limits, "z", QuotaAsk(1, 0, 0))
    assert (last.tokens.remaining, last.in_flight) == (90, 2)


@pytest.mark.redis
async def test_a_request_that_ends_while_it_is_renewed_leaves_no_place(client, clock):
    """The renewal arrives after the settlement, as if the server had forgotten the reservation."""
    limits = QuotaLimits(max_concurrent=3)
    quota = front(client, clock)
    verdict = await quota.reserve(ACME, limits, "x", QuotaAsk(2))
    await quota.settle(verdict, 0)
    await quota._renew_some([verdict])
    assert await held(client) == 0


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
        shared = await quota.reserve(ACME, limits, "before", QuotaAsk(1, 400, 400))
        assert shared.source is QuotaSource.SHARED

        line.cut()
        with capture_logs() as logs:
            away = await quota.reserve(ACME, limits, "during", QuotaAsk(1, 1000, 1000))
            assert (away.source, away.allowed, away.unsure) == (QuotaSource.LOCAL, True, True)
            second = await quota.reserve(ACME, limits, "during-2", QuotaAsk(1, 900, 900))
            assert (second.allowed, second.unsure) == (False, False), "local limits hold"
            await quota.settle(shared, 10)
            await quota.settle(away, 100)
            assert not quota.available
            assert [entry["event"] for entry in logs] == ["quota_store_away"]

            line.up = True
            clock.advance(1.0)
            after = await quota.reserve(ACME, limits, "after", QuotaAsk())
            assert [entry["event"] for entry in logs][-1] == "quota_store_back"
        assert after.source is QuotaSource.SHARED
        assert quota.available
        assert await client.zrange("braid:v1:{acme}:quota:leases", 0, -1) == [b"after"]
        last = await quota.reserve(ACME, limits, "last", QuotaAsk())
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
        verdict = await quota.reserve(ACME, limits, "x", QuotaAsk(1, 400, 400))
        line.cut()
        with capture_logs():
            await quota.settle(verdict, 10)
            assert not quota.available
            line.up = True
            clock.advance(1.0)
            await quota.reserve(ACME, limits, "y", QuotaAsk())
        assert await client.zrange("braid:v1:{acme}:quota:leases", 0, -1) == [b"y"]
        await weak.aclose()


@pytest.mark.redis
async def test_a_flushed_server_forgets_without_harm(client, clock):
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
    limits = QuotaLimits(tokens_per_minute=100, max_concurrent=1)
    verdict = await quota.reserve(ACME, limits, "x", QuotaAsk(1, 100, 100))
    await client.flushall()
    await client.script_flush()
    await quota.settle(verdict, 10)
    after = await quota.reserve(ACME, limits, "y", QuotaAsk())
    assert (after.tokens.remaining, after.in_flight) == (100, 1)
