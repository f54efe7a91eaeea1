"""Decisions for an answer's sentences."""

from typing import Any

import pytest

from cluster.domain.decision import DecisionSource, Granularity, kv_namespace
from cluster.domain.ids import TenantId
from cluster.errors import (
    DecisionNotFound,
    ModelNotFound,
)
from router_service.request_decision import StoreState
from router_service.routers.sentences import SentenceConfig
from router_service.routing_request import AdapterRequest, BaseModelRequest, RouterRequest
from router_service.service import RoutingService
from tests.support.manual_clock import ManualClock
from tests.support.word_routers import weights_of

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
AUTO = RouterRequest()


SENTENCES = RouterRequest("sentences")


async def test_a_sentence_is_decided_once_for_all_who_read_the_same(
    service: RoutingService,
) -> None:
    first = await service.decide(ACME, SENTENCES, "sql")
    assert first.decision.granularity is Granularity.SENTENCE
    one = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Th")
    assert (weights_of(one), one.source) == ({"cron": 1.0}, DecisionSource.COMPUTED)
    assert one.decision.id != first.decision.id
    again = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. The next")
    assert (again.source, again.encoded) == (DecisionSource.STORED, one.encoded)
    other = await service.decide_sentence(ACME, SENTENCES, "sql", "First cron. Then json. An")
    assert weights_of(other) == {"json": 1.0}
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
    assert service.sentences(SENTENCES) == SentenceConfig(min_characters=3)
    for request in (AUTO, BaseModelRequest(), AdapterRequest("sql"), RouterRequest("whole")):
        assert service.sentences(request) is None
    for name in ("words", "gone"):
        with pytest.raises(ModelNotFound):
            await service.decide_sentence(ACME, RouterRequest(name), "sql", "First. Th")


async def test_a_sentence_shares_kv_with_whoever_has_its_mixture(service: RoutingService) -> None:
    routed = await service.decide(ACME, AUTO, "sql")
    sentence = await service.decide_sentence(ACME, SENTENCES, "x", "Then sql. Th")
    explicit = await service.decide(ACME, AdapterRequest("sql"), "")
    names = {
        kv_namespace("base", decided.decision, isolate_tenant=True)
        for decided in (routed, sentence, explicit)
    }
    assert len(names) == 1
