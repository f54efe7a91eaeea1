"""After a failover whose connections stay open everything is written again, by itself."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from cluster import redis_announcements
from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.config import DecisionConfig
from cluster.domain.ids import TenantId
from cluster.errors import StoreUnavailable
from cluster.redis_client import PrimaryMoved, moves, redis_client
from cluster.tenancy.limits import QuotaAsk, QuotaLimits, QuotaSource
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.redis_quota import RedisQuota
from deployments.controller.controller_state import ControllerState
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore
from tests.support.decisions import decision_over
from tests.support.manual_clock import ManualClock
from tests.support.redis_pair import RedisPair, redis_pair

pytestmark = pytest.mark.redis
TIMEOUT_S = 5.0
ACME = TenantId("acme")


@pytest.fixture
async def pair() -> AsyncIterator[RedisPair]:
    async with redis_pair() as made:
        yield made


async def test_commands_scripts_and_pipelines_reach_the_new_primary(pair: RedisPair) -> None:
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-test")
    script = client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")
    await asyncio.gather(*(client.set(f"before-{n}", "1") for n in range(8)))
    await script(keys=["before"], args=["1"])
    await pair.fail_over()

    await asyncio.gather(*(client.set(f"after-{n}", "1") for n in range(8)))
    await pair.fail_over()
    await script(keys=["script"], args=["1"])
    await pair.fail_over()
    async with client.pipeline(transaction=False) as pipeline:
        assert await pipeline.set("plain", "1").get("plain").execute() == [True, b"1"]  # type: ignore[attr-defined] # pipelines chain
    await pair.fail_over()
    async with client.pipeline(transaction=True) as pipeline:
        assert await pipeline.set("multi", "1").incr("count").execute() == [True, 1]  # type: ignore[attr-defined] # pipelines chain
    found = await pair.primary.mget(*(f"after-{n}" for n in range(8)), "script", "plain", "multi")
    assert found == [b"1"] * 11
    assert moves(client) >= 4
    pool = client.connection_pool
    assert not pool._in_use_connections
    await client.aclose()


async def test_a_watched_transaction_fails_and_the_next_one_succeeds(pair: RedisPair) -> None:
    """The value that was read under the watch was the old primary's."""
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-test")
    await client.set("key", "1")
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch("key")
        await pair.fail_over()
        pipeline.multi()
        pipeline.set("key", "2")
        with pytest.raises(Exception, match=r"READONLY|watching|Watch"):
            await pipeline.execute()
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch("key")
        pipeline.multi()
        pipeline.set("key", "2")
        assert await pipeline.execute() == [True]
    await client.aclose()


async def test_a_primary_without_replicas_is_left_too(pair: RedisPair) -> None:
    """One that was cut off refuses writes by NOREPLICAS; nothing has told it of the new one."""
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-test")
    await client.set("key", "1")
    old = pair.primary
    await pair.fail_over()
    await old.execute_command("REPLICAOF", "NO", "ONE")
    await old.config_set("min-replicas-to-write", 1)
    await client.set("key", "2")
    assert await pair.primary.get("key") == b"2"
    await client.aclose()


async def test_while_the_address_still_leads_to_the_old_one_errors_are_told_at_once(
    pair: RedisPair,
) -> None:
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-test")
    await client.set("key", "1")
    await pair.fail_over(move=False)
    for _ in range(3):
        with pytest.raises(PrimaryMoved, match="READONLY"):
            await client.set("key", "2")
    pair.move()
    await client.set("key", "2")
    await client.aclose()


async def test_the_registry_writes_and_hears_again(pair: RedisPair) -> None:
    epochs = (f"epoch-{number}" for number in itertools.count())
    store, listener = (
        RedisRegistryStore(
            redis_client(pair.url, timeout_s=TIMEOUT_S, name=name), "base", lambda: next(epochs)
        )
        for name in ("braid-writer", "braid-listener")
    )
    await listener.wait(0.01)  # subscribes
    await listener.revision()
    assert await store.commit({"a": None}, {"a": b"1"}) is not None
    await pair.fail_over()
    revision = await store.commit({"b": None}, {"b": b"1"})
    assert revision is not None
    assert await listener.commit({"c": None}, {"c": b"1"}) is not None
    assert (await listener.changes(revision)).fields.keys() == {"c"}

    await listener.wait(0.01)  # subscribes at the new primary
    async with asyncio.timeout(30):
        while "braid-listener" in await pair.names(0):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    await listener.wait(0.5)  # the server's word that it listens
    heard = asyncio.create_task(listener.wait(60))
    await store.commit({"d": None}, {"d": b"1"})
    await asyncio.wait_for(heard, 30)
    await store.close()
    await listener.close()


async def test_a_process_that_only_reads_leaves_the_old_primary_too(
    pair: RedisPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was cut off would show it the same for ever."""
    monkeypatch.setattr(redis_announcements, "ROLE_INTERVAL_S", 0)
    writer, reader = (
        RedisRegistryStore(
            redis_client(pair.url, timeout_s=TIMEOUT_S, name=name), "base", lambda: "epoch"
        )
        for name in ("braid-writer", "braid-reader")
    )
    await writer.commit({}, {"a": b"1"})
    await reader.wait(0.01)
    old = pair.primary
    await pair.fail_over()
    await writer.commit({}, {"b": b"1"})
    await old.execute_command("REPLICAOF", "127.0.0.1", "1")
    await writer.commit({}, {"c": b"1"})
    await reader.wait(0.01)
    assert await reader.revision() == await writer.revision()
    await writer.close()
    await reader.close()


async def test_decisions_quotas_and_the_controller_s_state_are_written_again(
    pair: RedisPair,
) -> None:
    clock = ManualClock()
    config = DecisionConfig(ttl_s=60, redis_timeout_s=TIMEOUT_S, breaker_reset_s=1.0)
    codec = DecisionCodec(b"0123456789abcdef0123456789abcdef")
    decisions = RedisDecisionStore(pair.url, codec, clock, config)
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-quota")
    quota = RedisQuota(client, MemoryQuota(clock, 60), clock, 60, 1.0, script_clock=clock)
    state = ControllerState(pair.url)
    limits = QuotaLimits(requests_per_minute=10, tokens_per_minute=1000, max_concurrent=2)

    first = codec.sign(decision_over("a"))
    await decisions.put(first, 600)
    running = await quota.reserve(ACME, limits, "before", QuotaAsk(1, 100, 100))
    epoch = await state.take_epoch(0, last=0)
    assert epoch == 1
    assert await state.write(epoch, {"version": 1}) == epoch
    await pair.fail_over()

    second = codec.sign(decision_over("b", id="dec_" + "1" * 32))
    await decisions.put(second, 600)
    assert (await quota.enter(ACME, limits, "e")).source is QuotaSource.SHARED
    after = await quota.reserve(ACME, limits, "after", QuotaAsk(1, 100, 100))
    assert (after.source, after.in_flight) == (QuotaSource.SHARED, 2), "the first still counts"
    await quota.renew()
    await quota.settle(running, 10)
    assert await state.write(epoch, {"version": 2}) == epoch
    assert state.error is None
    assert quota.fallbacks == 0
    assert decisions.counters.unavailable == 0
    keys = await pair.primary.keys("*")
    assert f"braid:v1:{{t}}:decision:{second.decision.id}".encode() in keys
    left = await state.load()
    assert left is not None
    assert left.demand == {"version": 2}
    await decisions.close()
    await state.close()
    await client.aclose()


async def test_a_script_without_an_answer_does_not_make_a_request_wait(pair: RedisPair) -> None:
    """Two attempts on the old primary, then the breaker."""
    clock = ManualClock()
    client = redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-quota")
    quota = RedisQuota(client, MemoryQuota(clock, 60), clock, 60, 1.0, script_clock=clock)
    limits = QuotaLimits(max_concurrent=2)
    await quota.reserve(ACME, limits, "a", QuotaAsk())
    await pair.fail_over(move=False)
    assert (await quota.reserve(ACME, limits, "b", QuotaAsk())).source is QuotaSource.LOCAL
    found = moves(client)
    assert (await quota.reserve(ACME, limits, "c", QuotaAsk())).source is QuotaSource.LOCAL
    assert moves(client) == found == 2, "while it is away nobody asks"
    pair.move()
    clock.advance(1.0)
    assert (await quota.reserve(ACME, limits, "d", QuotaAsk())).source is QuotaSource.SHARED
    await client.aclose()


async def test_a_registry_whose_address_has_not_moved_is_away(pair: RedisPair) -> None:
    store = RedisRegistryStore(
        redis_client(pair.url, timeout_s=TIMEOUT_S, name="braid-test"), "base", lambda: "epoch"
    )
    await store.commit({}, {"a": b"1"})
    await pair.fail_over(move=False)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await store.commit({}, {"a": b"2"})
    pair.move()
    assert await store.commit({}, {"a": b"2"}) is not None
    await store.close()
