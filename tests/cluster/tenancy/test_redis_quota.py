"""Quotas in Redis: leases of fronts, outages, and what a server forgets."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from cluster.domain.ids import TenantId
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import LEASE_S, RedisQuota
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.redis
ACME = TenantId("acme")
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


async def test_two_keys_for_each_tenant_without_a_ttl(client, clock):
    """A full server does not drop keys without a TTL. Nothing of an ended request stays."""
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


async def test_entering_twice_with_one_id_charges_once(client, clock):
    quota = front(client, clock)
    limits = QuotaLimits(requests_per_minute=10)
    for _ in range(3):
        assert (await quota.enter(ACME, limits, "same")).requests.remaining == 9
    assert (await quota.enter(ACME, limits, "other")).requests.remaining == 8


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


async def test_a_flushed_server_forgets_without_harm(client, clock):
    quota = RedisQuota(client, MemoryQuota(clock, LEASE), clock, LEASE, 1.0, script_clock=clock)
    limits = QuotaLimits(tokens_per_minute=100, max_concurrent=1)
    verdict = await quota.reserve(ACME, limits, "x", QuotaAsk(1, 100, 100))
    await client.flushall()
    await client.script_flush()
    await quota.settle(verdict, 10)
    after = await quota.reserve(ACME, limits, "y", QuotaAsk())
    assert (after.tokens.remaining, after.in_flight) == (100, 1)
