"""Cost of a Redis outage, with a server that really dies and one that really hangs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cluster.config import DecisionConfig
from cluster.domain.decision import RoutingDecision
from cluster.errors import StoreUnavailable
from router_service.decision_store.breaker import BreakerState
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.redis

MakeDecision = Callable[..., RoutingDecision]


async def test_a_killed_server_is_left_alone_and_storing_resumes_when_it_is_back(
    redis_server: Any,
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
    make_decision: MakeDecision,
) -> None:
    store = RedisDecisionStore(redis_url, codec, clock, config)
    signed = codec.sign(make_decision())
    tenant, name = signed.decision.tenant, signed.decision.id
    await store.put(signed, 600)
    redis_server.kill()

    with pytest.raises(StoreUnavailable, match="Redis: ") as failure:
        await store.get(tenant, name)
    assert failure.value.__cause__ is not None
    assert store.breaker_state is BreakerState.OPEN

    with pytest.raises(StoreUnavailable, match="left alone"):
        await store.put(signed, 600)
    clock.advance(config.breaker_reset_s)
    with pytest.raises(StoreUnavailable, match="Redis: "):
        await store.get(tenant, name)
    with pytest.raises(StoreUnavailable, match="left alone"):
        await store.get(tenant, name)
    assert store.counters.unavailable == 4

    redis_server.start()
    with pytest.raises(StoreUnavailable, match="left alone"):
        await store.get(tenant, name)
    clock.advance(config.breaker_reset_s)
    await store.put(signed, 600)
    assert store.breaker_state is BreakerState.CLOSED
    assert await store.get(tenant, name) == signed
    await store.close()


async def test_a_restart_between_two_commands_costs_nothing(
    redis_server: Any,
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
    make_decision: MakeDecision,
) -> None:
    store = RedisDecisionStore(redis_url, codec, clock, config)
    signed = codec.sign(make_decision())
    await store.put(signed, 600)
    redis_server.kill()
    redis_server.start()
    assert await store.get(signed.decision.tenant, signed.decision.id) is None
    assert store.counters.unavailable == 0
    await store.close()


async def test_a_ping_that_is_answered_closes_the_breaker(
    redis_server: Any,
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> None:
    store = RedisDecisionStore(redis_url, codec, clock, config)
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.ping()
    assert store.breaker_state is BreakerState.OPEN
    redis_server.start()
    await store.ping()
    assert store.breaker_state is BreakerState.CLOSED
    await store.close()


class HangingServer:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def hanging() -> AsyncIterator[HangingServer]:
    server = HangingServer()
    listener = await server.serve()
    yield server
    server.hang_up()
    listener.close()
    await listener.wait_closed()


async def test_a_hanging_server_is_tried_once_per_reset_interval(
    hanging: HangingServer,
    codec: DecisionCodec,
    clock: ManualClock,
    make_decision: MakeDecision,
) -> None:
    config = DecisionConfig(redis_timeout_s=0.05, breaker_reset_s=5)
    store = RedisDecisionStore(hanging.url, codec, clock, config)
    signed = codec.sign(make_decision())
    tenant, name = signed.decision.tenant, signed.decision.id
    with pytest.raises(StoreUnavailable, match="Timeout"):
        await store.get(tenant, name)
    assert hanging.connections == 1

    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await store.put(signed, 60)
    assert hanging.connections == 1

    clock.advance(5)
    ends = await asyncio.gather(
        *(store.get(tenant, name) for _ in range(8)), return_exceptions=True
    )
    assert all(isinstance(end, StoreUnavailable) for end in ends)
    assert hanging.connections == 2
    await store.close()


async def test_a_cancelled_probe_leaves_the_next_caller_to_try(
    hanging: HangingServer,
    codec: DecisionCodec,
    clock: ManualClock,
    make_decision: MakeDecision,
) -> None:
    config = DecisionConfig(redis_timeout_s=0.05, breaker_reset_s=5)
    store = RedisDecisionStore(hanging.url, codec, clock, config)
    decision = make_decision()
    with pytest.raises(StoreUnavailable):
        await store.get(decision.tenant, decision.id)
    clock.advance(5)
    probe = asyncio.ensure_future(store.get(decision.tenant, decision.id))
    await asyncio.sleep(0)
    assert store.breaker_state is BreakerState.HALF_OPEN
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert store.breaker_state is BreakerState.OPEN
    with pytest.raises(StoreUnavailable, match="Timeout"):
        await store.get(decision.tenant, decision.id)
    await store.close()
