"""The books of quotas balance whatever fronts, connections and clocks do."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cluster.domain.ids import TenantId
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import LEASE_S, RedisQuota
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.redis

ACME = TenantId("acme")
HASH, LEASES = "braid:v1:{acme}:quota", "braid:v1:{acme}:quota:leases"
REMEMBER_S = 660.0
FRONTS = 3
PLACES = 6
TOKENS = 10**9  # per minute, more than any history uses


class Wire(Redis):
    """A connection to the real server on which commands or answers are lost, or sent twice."""

    fault = "none"

    async def execute_command(self, *args, **options):
        if self.fault == "lost":
            raise RedisConnectionError("the command was lost")
        reply = await super().execute_command(*args, **options)
        if self.fault == "unheard":
            raise RedisConnectionError("the answer was lost")
        if self.fault == "twice":
            reply = await super().execute_command(*args, **options)
        return reply


class Front:
    """One front process with the requests that run on it."""

    def __init__(self, url, clock, server_clock):
        self.wire = Wire.from_url(url)
        local = MemoryQuota(clock, REMEMBER_S)
        self.quota = RedisQuota(self.wire, local, clock, REMEMBER_S, 1.0, script_clock=server_clock)
        self.local = local
        self.running = []

    async def aclose(self):
        await self.wire.aclose()


class Cluster:
    """Several fronts, and what their requests should have cost."""

    def __init__(self, url, limits):
        self.url, self.limits = url, limits
        self.clock, self.server_clock = ManualClock(), ManualClock()
        self.fronts = [Front(url, self.clock, self.server_clock) for _ in range(FRONTS)]
        self.probe = Redis.from_url(url)
        self.number = 0
        self.spent = 0  # tokens that Redis should have booked

    async def step(self, kind, which, what):
        front = self.fronts[which]
        if kind == "reserve":
            await self.reserve(front, what)
        elif kind == "settle" and front.running:
            verdict, known = front.running.pop(what[0] % len(front.running))
            await front.quota.settle(verdict, what[1])
            self.spent += what[1] * known
        elif kind == "fault":
            front.wire.fault = what
        elif kind == "renew":
            await front.quota.renew()
        elif kind == "die":
            self.spent += sum(verdict.ask.expected * known for verdict, known in front.running)
            self.spent += await self.unpaid(front)
            await front.aclose()
            self.fronts[which] = Front(self.url, self.clock, self.server_clock)

    async def reserve(self, front, what):
        self.number += 1
        reservation = f"x{self.number}"
        ask = QuotaAsk(*what)
        verdict = await front.quota.reserve(ACME, self.limits, reservation, ask)
        known = await self.probe.hexists(HASH, f"r:{reservation}")
        if verdict.allowed:
            assert known or verdict.source is QuotaSource.LOCAL
            front.running.append((verdict, known))
        else:  # maybe allowed in Redis where no one heard it; it never ran
            assert verdict.unsure or not known

    async def unpaid(self, front):
        """Sum what a dead front took along: reservations stay charged as they were reserved."""
        unpaid = 0
        for verdict, tokens in front.quota._owed.values():
            if await self.probe.hexists(HASH, f"r:{verdict.reservation_id}"):
                unpaid += verdict.ask.expected - tokens
        return unpaid

    async def books(self):
        """Return places and exposure as kept and as summed, and ids as in hash and sorted set."""
        found = await self.probe.hgetall(HASH)
        asks = {
            key[2:]: tuple(map(int, text.split()))
            for key, text in found.items()
            if key.startswith(b"r:")
        }
        kept = int(found.get(b"places", 0)), int(found.get(b"exposure", 0))
        summed = sum(one[0] for one in asks.values()), sum(one[2] for one in asks.values())
        assert kept == summed
        assert asks.keys() == set(await self.probe.zrange(LEASES, 0, -1))
        for front in self.fronts:
            front.local.check_integrity()
        return kept[0]

    async def heal(self):
        """Make every connection work again, and pay what is owed."""
        for front in self.fronts:
            front.wire.fault = "none"
        self.clock.advance(2.0)
        for front in self.fronts:
            await front.quota.renew()

    async def aclose(self):
        for front in self.fronts:
            await front.aclose()
        await self.probe.aclose()


ASK = st.tuples(st.integers(1, PLACES), st.integers(0, 500), st.integers(0, 3000))
STEPS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, FRONTS - 1), ASK),
    st.tuples(
        st.just("settle"),
        st.integers(0, FRONTS - 1),
        st.tuples(st.integers(0, 9), st.sampled_from([0, 0, 1, 100, 4000])),
    ),
    st.tuples(
        st.just("fault"),
        st.integers(0, FRONTS - 1),
        st.sampled_from(["none", "none", "lost", "unheard", "twice"]),
    ),
    st.tuples(st.just("renew"), st.integers(0, FRONTS - 1), st.none()),
    st.tuples(st.just("die"), st.integers(0, FRONTS - 1), st.none()),
    st.tuples(st.just("breaker"), st.just(0), st.none()),
)
PASSING = st.tuples(st.just("wait"), st.just(0), st.sampled_from([0.5, 4.0, 9.0, 13.0, 700.0]))


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(st.one_of(STEPS, STEPS, PASSING), max_size=40))
def test_places_never_exceed_the_limit_and_all_come_back(redis_url, steps):
    async def scenario():
        limits = QuotaLimits(max_concurrent=PLACES, tokens_per_minute=TOKENS)
        async with aclosing(Cluster(redis_url, limits)) as cluster:
            await cluster.probe.flushdb()
            for kind, which, what in steps:
                if kind in ("wait", "breaker"):
                    cluster.clock.advance(what or 1.0)
                    cluster.server_clock.advance(what or 0.0)
                else:
                    await cluster.step(kind, which, what)
                assert 0 <= await cluster.books() <= PLACES
            await cluster.heal()
            for front in cluster.fronts:
                for verdict, _ in front.running:
                    await front.quota.settle(verdict, 0)
            cluster.server_clock.advance(LEASE_S + 0.001)
            whole = QuotaAsk(PLACES)
            verdict = await cluster.fronts[0].quota.reserve(ACME, limits, "whole", whole)
            assert (verdict.allowed, verdict.source) == (True, QuotaSource.SHARED)
            assert await cluster.books() == PLACES
            assert not any(front.quota._held.keys() - {"whole"} for front in cluster.fronts)

    asyncio.run(scenario())


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_tokens_charged_are_tokens_used(redis_url, steps):
    """The server's clock stands still, so nothing is refilled."""

    async def scenario():
        limits = QuotaLimits(tokens_per_minute=TOKENS)
        async with aclosing(Cluster(redis_url, limits)) as cluster:
            await cluster.probe.flushdb()
            for kind, which, what in steps:
                if kind == "breaker":
                    cluster.clock.advance(1.0)
                else:
                    await cluster.step(kind, which, what)
            await cluster.heal()
            for front in cluster.fronts:
                for verdict, known in front.running:
                    await front.quota.settle(verdict, 7)
                    cluster.spent += 7 * known
            await cluster.books()
            level = float(await cluster.probe.hget(HASH, "tokens") or TOKENS)
            assert level == TOKENS - cluster.spent

    asyncio.run(scenario())
