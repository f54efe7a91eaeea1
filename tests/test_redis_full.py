"""A server that is short of memory drops decisions, and neither quotas nor the registry."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from structlog.testing import capture_logs

from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.adapters.registry.registry_store import Revision
from cluster.clock import SystemClock
from cluster.config import DecisionConfig
from cluster.domain.ids import DecisionId, TenantId
from cluster.redis_client import redis_client
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import RedisQuota
from deployments.controller.controller_state import ControllerState
from deployments.local.valkey import EmbeddedValkey
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore
from tests.support.decisions import decision_over
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.redis
ACME = TenantId("acme")
HOUR_S = 3600.0
LIMITS = QuotaLimits(requests_per_minute=5, tokens_per_minute=1000, max_concurrent=3)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    made = redis_client(valkey.url, timeout_s=10, name="braid-test")
    await made.flushall()
    yield made
    await made.config_set("maxmemory", "256mb")
    await made.aclose()


async def test_a_flood_of_decisions_pushes_out_decisions_alone(
    valkey: EmbeddedValkey, client: Redis
) -> None:
    clock = ManualClock()
    quota = RedisQuota(client, MemoryQuota(clock, 660), clock, 660, 1.0, script_clock=clock)
    registry = RedisRegistryStore(
        redis_client(valkey.url, timeout_s=10, name="braid-test"), "base", lambda: "epoch"
    )
    state = ControllerState(valkey.url)
    fields = {f"names/{number}": b"x" * 200 for number in range(50)}
    assert await registry.commit({}, fields) is not None
    epoch = await state.take_epoch(0, last=0)
    assert epoch == 1
    assert await state.write(epoch, {"version": 1}) == epoch
    for number in range(5):
        assert (await quota.enter(ACME, LIMITS, f"e{number}")).allowed
    held = await quota.reserve(ACME, LIMITS, "held", QuotaAsk(3, 400, 400))

    config = DecisionConfig(ttl_s=HOUR_S, redis_timeout_s=10)
    codec = DecisionCodec(b"0123456789abcdef0123456789abcdef")
    decisions = RedisDecisionStore(valkey.url, codec, SystemClock(), config)

    async def store(first: int, last: int) -> None:
        signed = (
            codec.sign(decision_over("a", id=DecisionId(f"dec_{number:032x}")))
            for number in range(first, last)
        )
        await asyncio.gather(*(decisions.put(one, HOUR_S) for one in signed))

    await store(0, 1000)  # connections take memory too
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", used + 300_000)
    for first in range(1000, 5000, 100):
        await store(first, first + 100)
    info = await client.info("stats")
    assert info["evicted_keys"] > 1000

    assert (await quota.enter(ACME, LIMITS, "again")).refused == "requests"
    refused = await quota.reserve(ACME, LIMITS, "more", QuotaAsk(1))
    assert (refused.refused, refused.source) == ("concurrent requests", QuotaSource.SHARED)
    await quota.settle(held, 10)
    assert (await registry.changes(Revision("", 0))).fields == fields
    left = await state.load()
    assert left is not None
    assert left.demand == {"version": 1}
    kept = [key async for key in client.scan_iter("*") if b":decision:" not in key]
    assert [await client.ttl(key) for key in kept] == [-1] * len(kept), "none may be dropped"
    await registry.close()
    await decisions.close()
    await state.close()


async def test_a_server_that_takes_no_more_is_told_and_counted_around(client: Redis) -> None:
    clock = ManualClock()
    quota = RedisQuota(client, MemoryQuota(clock, 660), clock, 660, 1.0, script_clock=clock)
    held = await quota.reserve(ACME, LIMITS, "held", QuotaAsk(2, 400, 400))
    await client.config_set("maxmemory", 1)  # nothing that is there may be dropped
    with pytest.raises(OutOfMemoryError):
        await client.set("somebody-else", "x")
    with capture_logs() as logs:
        entered = await quota.enter(ACME, LIMITS, "e")
        reserved = await quota.reserve(ACME, LIMITS, "r", QuotaAsk(1))
    assert (entered.source, reserved.source) == (QuotaSource.LOCAL, QuotaSource.LOCAL)
    assert [entry["event"] for entry in logs] == ["quota_store_away"]
    assert "maxmemory" in logs[0]["error"]

    clock.advance(1.0)
    await quota.settle(held, 10)
    assert await client.hget("braid:v1:{acme}:quota", "places") == b"0", "ending takes no memory"
    assert quota.available
