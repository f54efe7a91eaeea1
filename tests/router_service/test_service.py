"""From a wish to a signed decision, with the store there, away, and lying."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from cluster.clock import ManualClock
from cluster.config import DecisionConfig
from cluster.domain.decision import CandidateScore, DecisionSource, Granularity, kv_namespace
from cluster.domain.ids import TenantId
from cluster.errors import (
    DecisionNotFound,
    ModelNotFound,
    RequestError,
    RouterOutdated,
    StoreUnavailable,
)
from router_service.decision_store.base import DecisionStore
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.keys import decision_key
from router_service.decision_store.redis_store import RedisDecisionStore
from router_service.routers.base import Declaration, Need, RoutedMixture, RouterFailed, Stage
from router_service.routers.segments import SegmentConfig, last_full_sentences
from router_service.service import Decided, RoutingService, StoreState
from router_service.wish import AdapterWish, BaseWish, MixtureTerm, MixtureWish, RouterWish

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
AUTO = RouterWish()


class WordRouter:
    """Keeps the allowed candidates whose alias is a word of the text, in equal parts."""

    declares = Declaration(
        stage=Stage.TEXT, granularity=Granularity.REQUEST, needs=frozenset({Need.TEXT})
    )
    candidates = ("", "cron", "json", "sql")

    def __init__(self, name: str = "words", version: str = "v1") -> None:
        self.name = name
        self.version = version
        self.texts: list[str] = []

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        self.texts.append(text)
        if "fail" in text:
            raise RouterFailed("told to")
        kept = [alias for alias in self.candidates if alias in allowed & set(text.split())]
        share = round(1 / len(kept), 4) if kept else 0.0
        return RoutedMixture(
            tuple((alias, share) for alias in kept),
            tuple(CandidateScore(a, share, kept=a in kept) for a in sorted(allowed)),
        )


class WholePromptRouter(WordRouter):
    """Leaves the rest of the decision to prefill."""

    declares = Declaration(
        stage=Stage.PREFILL,
        granularity=Granularity.PROMPT,
        needs=frozenset({Need.PROMPT_HIDDEN}),
        causal=False,
    )


class SentenceWords(WordRouter):
    """Reads the last sentence of the answer alone, if there is one."""

    declares = Declaration(
        stage=Stage.SENTENCE, granularity=Granularity.SENTENCE, needs=frozenset({Need.TEXT})
    )
    segments = SegmentConfig(min_characters=3)

    def reading(self, prompt: str, answer: str) -> str:
        return last_full_sentences(answer, 1, self.segments) or prompt

    def reroute(self, prompt: str, answer: str, allowed: frozenset[str]) -> RoutedMixture:
        return self.route(self.reading(prompt, answer).rstrip("."), allowed)


@pytest.fixture
def router() -> WordRouter:
    return WordRouter()


@pytest.fixture
def make_service(
    router: WordRouter,
    directory: Any,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> Callable[..., RoutingService]:
    def make(store: DecisionStore, **options: Any) -> RoutingService:
        return RoutingService(
            routers={
                "words": router,
                "second": WordRouter("second"),
                "whole": WholePromptRouter("whole"),
                "sentences": SentenceWords("sentences"),
            },
            store=store,
            directory=directory,
            codec=codec,
            clock=clock,
            config=config,
            max_mixture=2,
            **options,
        )

    return make


@pytest.fixture
def service(make_service: Any, flaky_store: Any) -> RoutingService:
    service: RoutingService = make_service(flaky_store)
    return service


def _weights(decided: Decided) -> dict[str, float]:
    return {term.key.alias: term.weight for term in decided.decision.mixture}


async def test_a_prompt_is_computed_once_and_then_stored(
    service: RoutingService, router: WordRouter, codec: DecisionCodec
) -> None:
    first = await service.decide(ACME, AUTO, "sql and cron")
    second = await service.decide(ACME, AUTO, "sql and cron")
    assert _weights(first) == {"sql": 0.5, "cron": 0.5}
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
        await service.decide(ACME, RouterWish("second"), "sql"),
    ]
    assert {one.source for one in decided} == {DecisionSource.COMPUTED}
    assert len({one.decision.id for one in decided}) == 4


async def test_a_new_router_version_or_generation_is_not_answered_by_an_old_decision(
    service: RoutingService, router: WordRouter, directory: Any, adapter_key: Any
) -> None:
    await service.decide(ACME, AUTO, "sql")
    router.version = "v2"
    assert (await service.decide(ACME, AUTO, "sql")).source is DecisionSource.COMPUTED
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    fresh = await service.decide(ACME, AUTO, "sql")
    assert fresh.source is DecisionSource.COMPUTED
    assert fresh.decision.mixture[0].key == adapter_key("sql", content="retrained")


async def test_a_router_goes_on_without_what_was_removed(
    service: RoutingService, directory: Any
) -> None:
    del directory.keys[ACME]["cron"]
    decided = await service.decide(ACME, AUTO, "sql and cron")
    assert _weights(decided) == {"sql": 1.0}


async def test_a_router_bound_to_a_generation_knows_no_other(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    made_for = {"sql": directory.keys[ACME]["sql"].digest, "cron": "of another time"}
    bound = make_service(flaky_store, bound={"words": made_for})
    assert _weights(await bound.decide(ACME, AUTO, "sql and cron")) == {"sql": 1.0}
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    assert _weights(await bound.decide(ACME, AUTO, "sql and cron")) == {}
    other = await bound.decide(ACME, RouterWish("second"), "sql and cron")
    assert _weights(other) == {"sql": 0.5, "cron": 0.5}


class AllOrNothing(WordRouter):
    """Cannot do without any of its adapters, like a gate."""

    candidates = ("cron", "sql")

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        if allowed != set(self.candidates):
            raise RouterFailed("one is missing")
        return RoutedMixture((("cron", 1.0), ("sql", 1.0)), ())


async def test_a_bound_router_keeps_its_generation_through_a_switch(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    before = directory.keys[ACME]["sql"]
    service = make_service(flaky_store)
    service.use({"gate": AllOrNothing("gate")}, {"gate": {"sql": before.digest}})
    first = await service.decide(ACME, AUTO, "hello")
    directory.keys[ACME]["sql"] = adapter_key("sql", content="retrained")
    directory.kept[before.digest] = before
    again = await service.decide(ACME, AUTO, "hello")
    assert again.source is DecisionSource.STORED
    other = await service.decide(ACME, AUTO, "another")
    assert other.decision.digests == again.decision.digests == first.decision.digests
    assert before.digest in other.decision.digests


async def test_a_router_whose_generation_is_gone_says_which(
    make_service: Any, flaky_store: Any, directory: Any, adapter_key: Any
) -> None:
    before = directory.keys[ACME]["sql"].digest
    service = make_service(flaky_store)
    service.use({"gate": AllOrNothing("gate")}, {"gate": {"sql": before}})
    directory.keys[ACME]["sql"] = now = adapter_key("sql", content="retrained")
    with pytest.raises(RouterOutdated, match="'gate'") as caught:
        await service.decide(ACME, AUTO, "hello")
    assert f"'sql' was {before[:12]} and is {now.digest[:12]}" in caught.value.message
    assert (caught.value.status, caught.value.code) == (409, "router_outdated")
    del directory.keys[ACME]["sql"]  # not there, or not the tenant's: nobody is told which
    fallen = await service.decide(ACME, AUTO, "hello")
    assert fallen.source is DecisionSource.FALLBACK


async def test_routers_come_and_go(make_service: Any, flaky_store: Any) -> None:
    service = make_service(flaky_store)
    service.use({"new": WordRouter("new")}, {}, {"old": "its adapters have gone"})
    assert service.router_names == ("new",)
    assert (await service.decide(ACME, RouterWish("new"), "sql")).decision.router == "new"
    with pytest.raises(RouterOutdated, match="its adapters have gone"):
        await service.decide(ACME, RouterWish("old"), "sql")
    with pytest.raises(ModelNotFound, match="there are: new"):
        await service.decide(ACME, RouterWish("words"), "sql")


async def test_a_tenants_rights_limit_the_router(service: RoutingService) -> None:
    decided = await service.decide(GLOBEX, AUTO, "sql and cron")
    assert _weights(decided) == {"sql": 1.0}
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
    assert _weights(second) == {"sql": 1.0}
    assert flaky_store.counters.tampered == 1
    assert (await service.decide(ACME, AUTO, "sql")).source is DecisionSource.STORED


async def test_an_outage_fails_nothing(service: RoutingService, flaky_store: Any) -> None:
    await service.decide(ACME, AUTO, "sql")
    flaky_store.away = True
    known = await service.decide(ACME, AUTO, "sql")
    new = await service.decide(ACME, AUTO, "json")
    again = await service.decide(ACME, AUTO, "json")
    named = await service.decide(ACME, AdapterWish("sql"), "anything")
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
    assert _weights(await follower) == {"sql": 1.0}
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


async def test_explicit_wishes_are_kept_for_look_up_by_id(
    service: RoutingService, router: WordRouter
) -> None:
    mixture = MixtureWish((MixtureTerm("sql", -0.5), MixtureTerm("cron", 0.0)))
    for wish, weights in (
        (BaseWish(), {}),
        (AdapterWish("sql"), {"sql": 1.0}),
        (mixture, {"sql": -0.5}),
    ):
        decided = await service.decide(ACME, wish, "text")
        assert decided.source is DecisionSource.EXPLICIT
        assert _weights(decided) == weights
        assert await service.get(ACME, decided.decision.id) == decided.decision
    assert [(s.alias, s.kept) for s in decided.decision.scores] == [("cron", False)]
    assert router.texts == []


async def test_explicit_decisions_differ_by_weights_and_not_by_prompt(
    service: RoutingService,
) -> None:
    half, whole = (MixtureWish((MixtureTerm("sql", w),)) for w in (0.5, 1.0))
    ids = [
        (await service.decide(ACME, wish, text)).decision.id
        for wish, text in ((half, "a"), (half, "b"), (whole, "a"))
    ]
    assert ids[0] == ids[1] != ids[2]


async def test_wrong_wishes(service: RoutingService) -> None:
    with pytest.raises(ModelNotFound, match="words, second"):
        await service.decide(ACME, RouterWish("third"), "text")
    with pytest.raises(ModelNotFound):
        await service.decide(GLOBEX, AdapterWish("cron"), "text")
    terms = tuple(MixtureTerm(alias, 1.0) for alias in ("sql", "cron", "json"))
    with pytest.raises(RequestError):
        await service.decide(ACME, MixtureWish(terms), "text")


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
    whole = RouterWish("whole")
    one = await service.decide(ACME, whole, "sql", [1, 2, 3])
    other = await service.decide(ACME, whole, "sql", [1, 2, 4])
    again = await service.decide(ACME, whole, "sql", [1, 2, 3])
    assert one.decision.id == again.decision.id != other.decision.id
    assert again.source is DecisionSource.STORED
    assert not one.decision.is_complete
    by_text = [await service.decide(ACME, AUTO, "sql", prompt) for prompt in ([1], [2])]
    assert by_text[0].decision.id == by_text[1].decision.id


SENTENCES = RouterWish("sentences")


async def test_a_sentence_is_decided_once_for_all_who_read_the_same(
    service: RoutingService,
) -> None:
    first = await service.decide(ACME, SENTENCES, "sql")
    assert first.decision.granularity is Granularity.SENTENCE
    one = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Th")
    assert (_weights(one), one.source) == ({"cron": 1.0}, DecisionSource.COMPUTED)
    assert one.decision.id != first.decision.id
    again = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. The next")
    assert (again.source, again.encoded) == (DecisionSource.STORED, one.encoded)
    other = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Then json. An")
    assert _weights(other) == {"json": 1.0}
    assert service.counters.computations["sentences"] == 3
    # A prompt that reads the same is another question.
    prompt = await service.decide(ACME, SENTENCES, "First cron.")
    assert prompt.source is DecisionSource.COMPUTED


async def test_how_late_a_sentence_was_applied_is_kept_with_its_decision(
    service: RoutingService, clock: ManualClock
) -> None:
    taken = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Th")
    assert taken.decision.delay is None
    clock.advance(5)
    await service.keep_delay(taken, 7)
    again = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Th")
    assert (again.source, again.decision.delay) == (DecisionSource.STORED, 7)
    assert again.decision.expires_at == taken.decision.expires_at
    await service.keep_delay(again, 9)  # what is known stays
    kept = await service.get(ACME, taken.decision.id)
    assert (kept.delay, kept.source) == (7, DecisionSource.COMPUTED)
    clock.advance(56)
    await service.keep_delay(taken, 7)  # its time is over
    with pytest.raises(DecisionNotFound):
        await service.get(ACME, taken.decision.id)


async def test_a_sentence_that_cannot_be_routed_is_told_as_a_fallback(
    service: RoutingService, flaky_store: Any
) -> None:
    failed = await service.decide_sentence(ACME, SENTENCES, "sql", "To fail. Th")
    assert failed.source is DecisionSource.FALLBACK
    await service.keep_delay(failed, 3)
    flaky_store.away = True
    away = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Th")
    assert (away.source, away.store_state) == (DecisionSource.COMPUTED, StoreState.UNAVAILABLE)
    await service.keep_delay(away, 3)


async def test_only_a_router_for_sentences_is_asked_for_one(service: RoutingService) -> None:
    assert service.segments(SENTENCES) == SegmentConfig(min_characters=3)
    for wish in (AUTO, BaseWish(), AdapterWish("sql"), RouterWish("whole")):
        assert service.segments(wish) is None
    for name in ("words", "gone"):
        with pytest.raises(ModelNotFound):
            await service.decide_sentence(ACME, RouterWish(name), "sql", "First. Th")


async def test_a_sentence_shares_kv_with_whoever_has_its_mixture(service: RoutingService) -> None:
    routed = await service.decide(ACME, AUTO, "sql")
    sentence = await service.decide_sentence(ACME, SENTENCES, "x", "Then sql. Th")
    explicit = await service.decide(ACME, AdapterWish("sql"), "")
    names = {
        kv_namespace("base", decided.decision, isolate_tenant=True)
        for decided in (routed, sentence, explicit)
    }
    assert len(names) == 1
