"""Decisions from a request to the signed copy, with the store there, away, and lying."""

import asyncio
from typing import Any

import pytest
import redis

from cluster.config import DecisionConfig
from cluster.domain.decision import DecisionSource
from cluster.domain.ids import TenantId
from cluster.errors import (
    DecisionNotFound,
    ModelNotFound,
    RequestError,
    StoreUnavailable,
)
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.keys import decision_key
from router_service.decision_store.redis_store import RedisDecisionStore
from router_service.request_decision import StoreState
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
    RouterRequest,
)
from router_service.service import RoutingService
from tests.support.manual_clock import ManualClock
from tests.support.word_routers import WordRouter, weights_of

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
AUTO = RouterRequest()


ACME, GLOBEX = TenantId("acme"), TenantId("globex")
AUTO = RouterRequest()


async def test_a_prompt_is_computed_once_and_then_stored(
    service: RoutingService, router: WordRouter, codec: DecisionCodec
) -> None:
    first = await service.decide(ACME, AUTO, "sql and cron")
    second = await service.decide(ACME, AUTO, "sql and cron")
    assert weights_of(first) == {"sql": 0.5, "cron": 0.5}
    assert (first.source, first.store_state) == (DecisionSource.COMPUTED, StoreState.WRITTEN)
    assert (second.source, second.store_state) == (DecisionSource.STORED, StoreState.HIT)
    assert second.decision.source is DecisionSource.STORED
    assert second.decision.mixture == first.decision.mixture
    assert second.encoded == first.encoded
    assert codec.decode_signed(first.encoded) == first.decision
    assert router.texts == ["sql and cron"]
    assert service.counters.computations == {"words": 1}
    assert service.counters.sources == {DecisionSource.COMPUTED: 1, DecisionSource.STORED: 1}


async def test_another_prompt_tenant_or_router_is_another_decision(
    service: RoutingService,
) -> None:
    decided = [
        await service.decide(ACME, AUTO, "sql"),
        await service.decide(ACME, AUTO, "json"),
        await service.decide(GLOBEX, AUTO, "sql"),
        await service.decide(ACME, RouterRequest("second"), "sql"),
    ]
    assert {one.source for one in decided} == {DecisionSource.COMPUTED}
    assert len({one.decision.id for one in decided}) == 4


async def test_a_tenants_rights_limit_the_router(service: RoutingService) -> None:
    decided = await service.decide(GLOBEX, AUTO, "sql and cron")
    assert weights_of(decided) == {"sql": 1.0}
    assert {score.alias for score in decided.decision.scores} == {"", "sql"}


async def test_a_decision_expires(service: RoutingService, clock: ManualClock) -> None:
    await service.decide(ACME, AUTO, "sql")
    clock.advance(60)
    assert (await service.decide(ACME, AUTO, "sql")).source is DecisionSource.COMPUTED


async def test_a_tampered_copy_is_counted_and_replaced(
    service: RoutingService, flaky_store: Any
) -> None:
    first = await service.decide(ACME, AUTO, "sql")
    key = decision_key(ACME, first.decision.id)
    flaky_store.write_raw(key, first.encoded.replace(b'"weight":1.0', b'"weight":9.0'), 60)
    second = await service.decide(ACME, AUTO, "sql")
    assert (second.source, second.store_state) == (DecisionSource.COMPUTED, StoreState.REPLACED)
    assert weights_of(second) == {"sql": 1.0}
    assert flaky_store.counters.tampered == 1
    assert (await service.decide(ACME, AUTO, "sql")).source is DecisionSource.STORED


async def test_an_outage_fails_nothing(service: RoutingService, flaky_store: Any) -> None:
    await service.decide(ACME, AUTO, "sql")
    flaky_store.away = True
    known = await service.decide(ACME, AUTO, "sql")
    new = await service.decide(ACME, AUTO, "json")
    again = await service.decide(ACME, AUTO, "json")
    named = await service.decide(ACME, AdapterRequest("sql"), "anything")
    assert (known.source, known.store_state) == (DecisionSource.STORED, StoreState.LOCAL)
    assert (new.source, new.store_state) == (DecisionSource.COMPUTED, StoreState.UNAVAILABLE)
    assert (again.source, again.store_state) == (DecisionSource.STORED, StoreState.LOCAL)
    assert (named.source, named.store_state) == (DecisionSource.EXPLICIT, StoreState.UNAVAILABLE)
    flaky_store.away = False
    back = await service.decide(ACME, AUTO, "json")
    assert (back.source, back.store_state) == (DecisionSource.COMPUTED, StoreState.WRITTEN)


async def test_a_store_that_is_back_for_the_write_has_the_decision(
    service: RoutingService, flaky_store: Any
) -> None:
    flaky_store.loses_next_read = True
    decided = await service.decide(ACME, AUTO, "sql")
    assert (decided.source, decided.store_state) == (DecisionSource.COMPUTED, StoreState.WRITTEN)
    assert (await service.decide(ACME, AUTO, "sql")).store_state is StoreState.HIT


async def test_concurrent_requests_for_one_prompt_route_once(service: RoutingService) -> None:
    decided = await asyncio.gather(*(service.decide(ACME, AUTO, "sql") for _ in range(16)))
    assert service.counters.computations == {"words": 1}
    assert service.counters.shared == 15
    assert service.counters.sources == {DecisionSource.COMPUTED: 1, DecisionSource.STORED: 15}
    assert len({one.encoded for one in decided}) == 1


class Gate:
    """Makes a store's reads wait."""

    def __init__(self, store: Any) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        inner = store.get

        async def get(*arguments: Any) -> Any:
            self.entered.set()
            await self.open.wait()
            return await inner(*arguments)

        store.get = get


async def test_a_client_that_leaves_does_not_take_the_others_along(
    service: RoutingService, flaky_store: Any
) -> None:
    gate = Gate(flaky_store)
    leader = asyncio.ensure_future(service.decide(ACME, AUTO, "sql"))
    follower = asyncio.ensure_future(service.decide(ACME, AUTO, "sql"))
    await gate.entered.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    gate.open.set()
    assert weights_of(await follower) == {"sql": 1.0}
    assert service.counters.computations == {"words": 1}


async def test_closing_waits_for_decisions_in_flight(
    service: RoutingService, flaky_store: Any
) -> None:
    gate = Gate(flaky_store)
    request = asyncio.ensure_future(service.decide(ACME, AUTO, "sql"))
    await gate.entered.wait()
    closing = asyncio.ensure_future(service.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.open.set()
    await closing
    assert (await request).source is DecisionSource.COMPUTED


async def test_a_router_that_cannot_answer_leaves_it_to_the_base(
    service: RoutingService, flaky_store: Any, codec: DecisionCodec
) -> None:
    decided = await service.decide(ACME, AUTO, "fail on sql")
    assert (decided.source, decided.store_state) == (DecisionSource.FALLBACK, StoreState.SKIPPED)
    assert decided.decision.mixture == ()
    assert codec.decode_signed(decided.encoded).router == "fallback"
    assert flaky_store.counters.stored == 0


async def test_explicit_requests_are_kept_for_look_up_by_id(
    service: RoutingService, router: WordRouter
) -> None:
    mixture = MixtureRequest((MixtureTerm("sql", -0.5), MixtureTerm("cron", 0.0)))
    for request, weights in (
        (BaseModelRequest(), {}),
        (AdapterRequest("sql"), {"sql": 1.0}),
        (mixture, {"sql": -0.5}),
    ):
        decided = await service.decide(ACME, request, "text")
        assert decided.source is DecisionSource.EXPLICIT
        assert weights_of(decided) == weights
        assert await service.get(ACME, decided.decision.id) == decided.decision
    assert [(s.alias, s.kept) for s in decided.decision.scores] == [("cron", False)]
    assert router.texts == []


async def test_explicit_decisions_differ_by_weights_and_not_by_prompt(
    service: RoutingService,
) -> None:
    half, whole = (MixtureRequest((MixtureTerm("sql", w),)) for w in (0.5, 1.0))
    ids = [
        (await service.decide(ACME, request, text)).decision.id
        for request, text in ((half, "a"), (half, "b"), (whole, "a"))
    ]
    assert ids[0] == ids[1] != ids[2]


async def test_wrong_requests(service: RoutingService) -> None:
    with pytest.raises(ModelNotFound, match="words, second"):
        await service.decide(ACME, RouterRequest("third"), "text")
    with pytest.raises(ModelNotFound):
        await service.decide(GLOBEX, AdapterRequest("cron"), "text")
    terms = tuple(MixtureTerm(alias, 1.0) for alias in ("sql", "cron", "json"))
    with pytest.raises(RequestError):
        await service.decide(ACME, MixtureRequest(terms), "text")


@pytest.mark.parametrize("wanted", ["", "nonsense", "dec_" + "0" * 32])
async def test_an_unknown_id_is_not_found(service: RoutingService, wanted: str) -> None:
    with pytest.raises(DecisionNotFound):
        await service.get(ACME, wanted)


async def test_another_tenants_decision_is_not_found(service: RoutingService) -> None:
    decided = await service.decide(ACME, AUTO, "sql")
    with pytest.raises(DecisionNotFound):
        await service.get(GLOBEX, decided.decision.id)


async def test_look_up_during_an_outage_knows_its_own_decisions_only(
    service: RoutingService, flaky_store: Any
) -> None:
    decided = await service.decide(ACME, AUTO, "sql")
    flaky_store.away = True
    assert await service.get(ACME, decided.decision.id) == decided.decision
    with pytest.raises(StoreUnavailable):
        await service.get(ACME, "dec_" + "0" * 32)


async def test_a_tampered_decision_is_not_shown(service: RoutingService, flaky_store: Any) -> None:
    decided = await service.decide(ACME, AUTO, "sql")
    flaky_store.write_raw(decision_key(ACME, decided.decision.id), b"{}", 60)
    with pytest.raises(DecisionNotFound, match="not valid"):
        await service.get(ACME, decided.decision.id)


@pytest.mark.redis
async def test_redis_is_killed_and_comes_back_while_prompts_arrive(
    redis_server: Any,
    redis_url: str,
    make_service: Any,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> None:
    service = make_service(RedisDecisionStore(redis_url, codec, clock, config))
    assert (await service.decide(ACME, AUTO, "sql")).store_state is StoreState.WRITTEN
    redis_server.kill()
    states = [(await service.decide(ACME, AUTO, f"json {n}")).store_state for n in range(3)]
    assert states == [StoreState.UNAVAILABLE] * 3
    redis_server.start()
    clock.advance(config.breaker_reset_s)
    decided = await service.decide(ACME, AUTO, "json 0")
    assert (decided.source, decided.store_state) == (DecisionSource.COMPUTED, StoreState.WRITTEN)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == [decision_key(ACME, decided.decision.id).encode()]
    await service.close()


async def test_a_decision_for_prefill_is_of_the_whole_prompt(service: RoutingService) -> None:
    whole = RouterRequest("whole")
    one = await service.decide(ACME, whole, "sql", [1, 2, 3])
    other = await service.decide(ACME, whole, "sql", [1, 2, 4])
    again = await service.decide(ACME, whole, "sql", [1, 2, 3])
    assert one.decision.id == again.decision.id != other.decision.id
    assert again.source is DecisionSource.STORED
    assert not one.decision.is_complete
    by_text = [await service.decide(ACME, AUTO, "sql", prompt) for prompt in ([1], [2])]
    assert by_text[0].decision.id == by_text[1].decision.id
