"""Earlier turns of a conversation: on their way to a router, and in a decision's key."""

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.domain.decision import CandidateScore, DecisionSource, Granularity
from cluster.domain.ids import TenantId
from router_service.routers.base import Declaration, Need, RoutedMixture, Stage
from router_service.routers.sentences import SentenceConfig, last_full_sentences
from router_service.routing_request import RouterRequest
from router_service.service import RoutingService
from tests.support.word_routers import weights_of

ACME = TenantId("acme")
TALKS, SENTENCES = RouterRequest("talks"), RouterRequest("talks-by-sentence")


class Talks:
    """Keeps candidates that are words of the last turn, or else of those before."""

    candidates = ("", "cron", "json", "sql")
    sentences = SentenceConfig(min_characters=3)

    def __init__(self, name: str, stage: Stage = Stage.TEXT, history: int = 2) -> None:
        self.name, self.version = name, "v1"
        by_request = stage is Stage.TEXT
        self.declares = Declaration(
            stage,
            Granularity.REQUEST if by_request else Granularity.SENTENCE,
            frozenset({Need.TEXT}),
            history=history,
        )
        self.read: list[tuple[str, ...]] = []

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        self.read.append((*earlier, text))
        for turn in (text, *reversed(earlier)):
            words = turn.replace(".", " ").split()
            kept = [a for a in self.candidates if a in allowed and a in words]
            if kept:
                return RoutedMixture(
                    tuple((alias, 1.0) for alias in kept),
                    tuple(CandidateScore(a, 0.0, kept=a in kept) for a in sorted(allowed)),
                )
        return RoutedMixture((), ())

    def reading(self, prompt: str, answer: str) -> str:
        return last_full_sentences(answer, 1, self.sentences) or prompt

    def reroute(
        self, prompt: str, answer: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        return self.route(self.reading(prompt, answer), allowed, earlier)


@pytest.fixture
def talks() -> Talks:
    return Talks("talks")


@pytest.fixture
def conversing(make_service: Any, flaky_store: Any, talks: Talks) -> RoutingService:
    service: RoutingService = make_service(flaky_store)
    by_sentence = Talks("talks-by-sentence", Stage.SENTENCE)
    service.use(
        {"talks": talks, "talks-by-sentence": by_sentence, "deaf": Talks("deaf", history=0)}, {}
    )
    return service


async def test_a_router_reads_as_many_turns_as_it_declares(
    conversing: RoutingService, talks: Talks
) -> None:
    decided = await conversing.decide(ACME, TALKS, "and now", earlier=["cron", "sql", "why"])
    assert weights_of(decided) == {"sql": 1.0}
    assert talks.read == [("sql", "why", "and now")]


async def test_the_turns_that_are_read_are_part_of_the_key(
    conversing: RoutingService, talks: Talks
) -> None:
    conversations: list[list[str]] = [
        [],
        ["sql"],
        ["json"],
        ["sql", "json"],
        ["json", "sql"],
        ["", "sql"],
    ]
    decided = [await conversing.decide(ACME, TALKS, "and now", earlier=e) for e in conversations]
    assert len({one.decision.id for one in decided}) == len(conversations)
    assert {one.source for one in decided} == {DecisionSource.COMPUTED}
    again = [await conversing.decide(ACME, TALKS, "and now", earlier=e) for e in conversations]
    assert {one.source for one in again} == {DecisionSource.STORED}
    assert [one.decision.id for one in again] == [one.decision.id for one in decided]
    assert len(talks.read) == len(conversations)


async def test_turns_that_are_not_read_make_no_other_decision(conversing: RoutingService) -> None:
    near = ["sql", "why"]
    first = await conversing.decide(ACME, TALKS, "and now", earlier=["cron", *near])
    assert (await conversing.decide(ACME, TALKS, "and now", earlier=near)).source is (
        DecisionSource.STORED
    )
    assert first.decision.mixture
    deaf = RouterRequest("deaf")
    alone = await conversing.decide(ACME, deaf, "and now")
    told = await conversing.decide(ACME, deaf, "and now", earlier=near)
    assert told.source is DecisionSource.STORED
    assert told.decision.id == alone.decision.id


async def test_a_turn_cannot_be_taken_for_another_form_of_text(conversing: RoutingService) -> None:
    """A prompt that looks like the key of a conversation has a decision of its own."""
    told = await conversing.decide(ACME, TALKS, "and now", earlier=["sql"])
    text = await conversing.decide(ACME, TALKS, '["turns", "and now", "sql"]')
    sentence = await conversing.decide_sentence(ACME, SENTENCES, "and now", "", ["sql"])
    assert len({told.decision.id, text.decision.id, sentence.decision.id}) == 3


async def test_sentences_of_a_follow_up_read_the_turns_too(conversing: RoutingService) -> None:
    answer = "Here is something. And"
    told = await conversing.decide_sentence(ACME, SENTENCES, "and now", answer, ["sql"])
    assert weights_of(told) == {"sql": 1.0}
    other = await conversing.decide_sentence(ACME, SENTENCES, "and now", answer, ["json"])
    assert weights_of(other) == {"json": 1.0}
    alone = await conversing.decide_sentence(ACME, SENTENCES, "and now", answer)
    assert weights_of(alone) == {}
    assert len({one.decision.id for one in (told, other, alone)}) == 3
