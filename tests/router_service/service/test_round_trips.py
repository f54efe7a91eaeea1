"""Round trips to Redis before a first token, through the front's service and the replica's reader.

The counts are of commands that a request waits for: those sent until its replica has its decision.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.config import DecisionConfig
from cluster.domain.decision import DecisionSource, SiteWeights
from cluster.domain.ids import TenantId
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore
from router_service.reader import DecisionReader
from router_service.request_decision import RequestDecision, StoreState
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
    RouterRequest,
    RoutingRequest,
)
from router_service.service import RoutingService
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.redis

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
EXPLICIT = [
    BaseModelRequest(),
    AdapterRequest("sql"),
    MixtureRequest((MixtureTerm("sql", 0.5), MixtureTerm("cron", -1.0))),
]


class CountedStore(RedisDecisionStore):
    """Counts the commands that leave, by name, and can hold them back."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.commands: list[str] = []
        self.may_pass = asyncio.Event()
        self.may_pass.set()
        inner = self._redis.execute_command

        async def execute(*command: Any, **options: Any) -> Any:
            self.commands.append(command[0])
            await self.may_pass.wait()
            return await inner(*command, **options)

        self._redis.execute_command = execute

    def sent(self) -> list[str]:
        """Return the commands since the last call."""
        commands, self.commands = self.commands, []
        return commands


class Pair:
    """A front's service and a replica's reader, each with a connection of its own."""

    def __init__(self, make_service: Any, make_store: Callable[[], CountedStore], reader: Any):
        self.front_store, self.replica_store = make_store(), make_store()
        self.service: RoutingService = make_service(self.front_store)
        self.reader: DecisionReader = reader(self.replica_store)

    async def begin(
        self, request: RoutingRequest, text: str = "sql", prompt: tuple[int, ...] = (1,)
    ) -> RequestDecision:
        """Run all that happens to a decision before the first token."""
        decided = await self.service.decide(ACME, request, text, prompt)
        read = await self.reader.read(decided.encoded)
        assert read.decision.mixture == decided.decision.mixture
        return decided

    def sent(self) -> tuple[list[str], list[str]]:
        """Return the commands of the front and of the replica."""
        return self.front_store.sent(), self.replica_store.sent()

    async def close(self) -> None:
        await self.service.close()
        await self.reader.close()


@pytest.fixture
async def pair(
    make_service: Any,
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> Any:
    made = Pair(
        make_service,
        lambda: CountedStore(redis_url, codec, clock, config),
        lambda store: DecisionReader(
            store=store, codec=codec, clock=clock, config=config, leeway_s=30
        ),
    )
    yield made
    for store in (made.front_store, made.replica_store):
        store.may_pass.set()
    await made.close()


async def test_a_routed_prompt_waits_for_the_front_alone(pair: Pair) -> None:
    new = await pair.begin(RouterRequest())
    assert (new.source, pair.sent()) == (DecisionSource.COMPUTED, (["GET", "SET"], []))
    known = await pair.begin(RouterRequest())
    assert (known.source, pair.sent()) == (DecisionSource.STORED, (["GET"], []))


@pytest.mark.parametrize("request_", EXPLICIT)
async def test_an_explicit_request_waits_for_no_store(pair: Pair, request_: RoutingRequest) -> None:
    """Its first write is held back, and everything before the first token happens all the same."""
    pair.front_store.may_pass.clear()
    for _ in range(3):
        decided = await asyncio.wait_for(pair.begin(request_), 20)
        assert decided.source is DecisionSource.EXPLICIT
        assert decided.store_state is StoreState.WRITTEN
    assert pair.replica_store.sent() == []
    pair.front_store.may_pass.set()
    assert await pair.service.get(ACME, decided.decision.id) == decided.decision
    assert pair.front_store.sent() == ["SET", "GET"]
    await pair.begin(request_)
    assert pair.sent() == ([], [])


async def test_an_explicit_decision_is_written_again_when_half_its_time_is_over(
    pair: Pair, clock: ManualClock
) -> None:
    first = await pair.begin(EXPLICIT[1])
    await pair.service.get(ACME, first.decision.id)
    clock.advance(29)
    assert (await pair.begin(EXPLICIT[1])).encoded == first.encoded
    clock.advance(1)
    second = await pair.begin(EXPLICIT[1])
    assert second.decision.id == first.decision.id
    assert second.decision.expires_at == first.decision.expires_at + 30
    assert await pair.service.get(ACME, second.decision.id) == second.decision
    assert pair.front_store.sent() == ["SET", "GET", "SET", "GET"]


async def test_a_mixture_with_other_names_is_a_decision_of_its_own(pair: Pair) -> None:
    """The id is the same: it depends on what is computed, and a weight of 0 computes nothing."""
    plain = MixtureRequest((MixtureTerm("sql", 1.0),))
    dropping = MixtureRequest((MixtureTerm("sql", 1.0), MixtureTerm("cron", 0.0)))
    one, other = await pair.begin(plain), await pair.begin(dropping)
    assert one.decision.id == other.decision.id
    assert [score.alias for score in other.decision.scores] == ["cron"]
    assert (await pair.begin(plain)).decision.scores == ()


async def test_concurrent_explicit_requests_write_once(pair: Pair) -> None:
    decided = await asyncio.gather(*(pair.begin(EXPLICIT[2]) for _ in range(50)))
    assert len({one.encoded for one in decided}) == 1
    await pair.service.get(ACME, decided[0].decision.id)
    assert pair.front_store.sent().count("SET") == 1


async def test_a_store_that_was_away_is_written_when_it_is_back(
    pair: Pair, redis_server: Any, clock: ManualClock, config: DecisionConfig
) -> None:
    redis_server.kill()
    decided = await pair.begin(EXPLICIT[0])
    await pair.service.close()
    assert (await pair.begin(EXPLICIT[0])).store_state is StoreState.UNAVAILABLE
    assert await pair.service.get(ACME, decided.decision.id) == decided.decision
    redis_server.start()
    clock.advance(config.breaker_reset_s)
    await pair.begin(EXPLICIT[0])
    assert await pair.service.get(ACME, decided.decision.id) == decided.decision
    assert (await pair.begin(EXPLICIT[0])).store_state is StoreState.WRITTEN


async def test_what_the_store_has_lost_is_still_found_and_written_again(
    pair: Pair, redis_server: Any
) -> None:
    decided = await pair.begin(EXPLICIT[1])
    await pair.service.get(ACME, decided.decision.id)
    redis_server.kill()
    redis_server.start()
    assert await pair.service.get(ACME, decided.decision.id) == decided.decision
    await pair.service._explicit.close()
    stored = await pair.replica_store.get(ACME, decided.decision.id)
    assert stored is not None
    assert stored.decision == decided.decision


async def test_a_decision_for_prefill_is_looked_for_until_it_is_complete(pair: Pair) -> None:
    """The decision in the store, completed by prefill, is better than the one the front sent."""
    whole = RouterRequest("whole")
    decided = await pair.begin(whole)
    assert pair.sent() == (["GET", "SET"], ["GET"])
    weights = SiteWeights(("model.layers.0.mlp.up_proj",), ((0.5,),))
    complete = replace(decided.decision, site_weights=weights)
    await pair.reader.complete(complete)
    pair.sent()
    await pair.begin(whole)
    assert pair.sent() == (["GET"], [])
