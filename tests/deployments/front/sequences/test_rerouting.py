"""Checks an answer's sentences: when they are decided, what the replica gets, what comes of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.domain.decision import DecisionSource, Granularity
from cluster.domain.ids import DecisionId, RequestId, TenantId
from cluster.domain.request import FinishReason, GenerationChunk, SamplingParams
from cluster.errors import DecisionRejected
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from deployments.front.requests.explain import sentences_body
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.rerouting import LEAD_TOKENS, SentenceRerouting, SentenceState
from deployments.front.sequences.sequence_spec import ChoiceServices, SequenceSpec
from deployments.link.link_messages import SpanStart
from router_service.request_decision import RequestDecision, StoreState
from router_service.routers.sentences import SentenceConfig
from tests.support.choices import run_choice
from tests.support.decisions import decision_over
from tests.support.manual_clock import ManualClock
from tests.support.scripted_link import ScriptedLink
from tests.support.small_views import view_of

TENANT = TenantId("acme")


def decided(
    adapters: str, source: DecisionSource = DecisionSource.COMPUTED, delay: int | None = None
) -> RequestDecision:
    """Return a decision over one adapter of weight 1 for each letter."""
    decision = decision_over(
        adapters,
        id=DecisionId(f"dec_{adapters}"),
        tenant=TENANT,
        granularity=Granularity.SENTENCE,
        source=source,
        delay=delay,
    )
    return RequestDecision(decision, adapters.encode(), StoreState.WRITTEN)


class Router:
    """Answers with the scripted decisions, in order; raises those that are errors."""

    def __init__(self, *script: RequestDecision | Exception) -> None:
        self.script = list(script)
        self.answers: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, answer: str) -> RequestDecision:
        self.answers.append(answer)
        await self.may_answer.wait()
        result = self.script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class Desk:
    """A sequence's re-routing between a router and a replica that the test plays."""

    def __init__(self, *script: RequestDecision | Exception, first: str = "a") -> None:
        self.router = Router(*script)
        self.delays: list[tuple[str, int]] = []
        self.told: list[tuple[bytes, int]] = []
        self.tokens = 0
        self.rerouting = SentenceRerouting(
            decided(first),
            SentenceConfig(min_characters=4),
            self.router,
            lambda one, delay: self.delays.append((one.decision.id, delay)),
        )
        self.attach()

    def attach(self) -> None:
        self.rerouting.attach(lambda signed, after: self.told.append((signed, after)))

    async def say(self, text: str) -> None:
        """Say one token."""
        self.tokens += 1
        self.rerouting.feed_text(text, self.tokens)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def hear(self, **fields: Any) -> None:
        self.rerouting.hear_chunk(GenerationChunk(RequestId("r"), **fields))
        await self.settle()

    @property
    def states(self) -> list[SentenceState]:
        return [sentence.state for sentence in self.rerouting.sentences]


APPLIED, UNCHANGED, FAILED, UNREACHED = SentenceState


async def test_a_new_sentence_is_decided_and_told_and_applied() -> None:
    desk = Desk(decided("b"))
    for text in ("First", " one.", " ", "Then", " more"):
        await desk.say(text)
    assert desk.router.answers == ["First one. Then"]
    assert desk.told == [(b"b", 4 + LEAD_TOKENS)]
    assert desk.states == [APPLIED, UNREACHED]
    assert desk.rerouting.started_segments() == ()
    await desk.hear(token_ids=(7,), span_start=9)
    assert desk.states == [APPLIED, APPLIED]
    assert desk.delays == [("dec_b", 5)]
    assert desk.rerouting.started_segments() == (SpanStart(9, b"b"),)
    assert desk.rerouting.digests == ("a", "b")
    shares = [(n, "".join(t.key.alias for t in m)) for n, m in desk.rerouting.mixture_shares(20)]
    assert shares == [(9, "a"), (11, "b")]


async def test_a_repeat_waits_as_long_as_it_took_before() -> None:
    desk = Desk(decided("b", DecisionSource.STORED, delay=11))
    for text in ("First one.", " Then"):
        await desk.say(text)
    assert desk.told == [(b"b", 2 + 11)]


async def test_the_same_mixture_is_no_change() -> None:
    desk = Desk(decided("a"), decided("b"))
    for text in ("First one.", " Then this.", " And"):
        await desk.say(text)
    assert desk.states == [APPLIED, UNCHANGED, UNREACHED]
    assert [signed for signed, _ in desk.told] == [b"b"]


@pytest.mark.parametrize(
    "answer",
    [
        decided("", DecisionSource.FALLBACK),
        DecisionRejected("words"),
        RuntimeError("unforeseen"),
    ],
    ids=["fallback", "refused", "bug"],
)
async def test_what_cannot_be_decided_stays_as_it_is(answer: RequestDecision | Exception) -> None:
    desk = Desk(answer, decided("b"))
    await desk.say("First one.")
    await desk.say(" Then this.")
    assert (desk.states, desk.told) == ([APPLIED, FAILED], [])
    assert desk.rerouting.sentences[1].reason
    await desk.say(" And")
    assert desk.told == [(b"b", 3 + LEAD_TOKENS)]


async def test_a_refusal_of_the_replica_is_told_and_the_next_sentence_has_its_chance() -> None:
    desk = Desk(decided("b"), decided("c"))
    for text in ("First one.", " Then"):
        await desk.say(text)
    await desk.hear(reroute_error="no room")
    assert desk.states == [APPLIED, FAILED]
    assert desk.rerouting.sentences[1].reason == "no room"
    for text in (" this.", " And"):
        await desk.say(text)
    assert [signed for signed, _ in desk.told] == [b"b", b"c"]


async def test_one_re_route_at_a_time_and_then_the_newest_sentence() -> None:
    desk = Desk(decided("b"), decided("d"))
    for text in ("First one.", " Second one.", " Third one.", " Fourth"):
        await desk.say(text)
    assert [signed for signed, _ in desk.told] == [b"b"]
    await desk.hear(token_ids=(7,), span_start=8)
    assert desk.router.answers[1:] == ["First one. Second one. Third one. Fourth"]
    assert desk.told[1] == (b"d", 4 + LEAD_TOKENS)
    assert len(desk.rerouting.sentences) == 3


async def test_a_decision_outlives_the_replica_that_did_not_get_to_it() -> None:
    desk = Desk(decided("b"), decided("c"))
    for text in ("First one.", " Then this."):
        await desk.say(text)
    await desk.hear(token_ids=(7,), span_start=6)
    await desk.say(" And")  # told, and then the replica is lost
    assert len(desk.told) == 2
    desk.rerouting.detach()
    assert desk.rerouting.started_segments() == (SpanStart(6, b"b"),)
    desk.attach()
    assert desk.told[2] == desk.told[1] == (b"c", 3 + LEAD_TOKENS)


async def test_a_decision_that_comes_while_there_is_no_replica_waits() -> None:
    desk = Desk(decided("b"))
    desk.router.may_answer.clear()
    for text in ("First one.", " Then"):
        await desk.say(text)
    desk.rerouting.detach()
    desk.router.may_answer.set()
    await desk.settle()
    assert desk.told == []
    desk.attach()
    assert desk.told == [(b"b", 2 + LEAD_TOKENS)]


async def test_the_end_of_the_answer_ends_routing() -> None:
    desk = Desk(decided("b"))
    desk.router.may_answer.clear()
    for text in ("First one.", " Then"):
        await desk.say(text)
    desk.rerouting.stop()
    desk.router.may_answer.set()
    await desk.settle()
    assert (desk.told, desk.states) == ([], [APPLIED, UNREACHED])


async def test_an_explanation_names_each_sentences_decision() -> None:
    desk = Desk(decided("b"), DecisionRejected("words"))
    for text in ("First one.", " Then this."):
        await desk.say(text)
    await desk.hear(token_ids=(7,), span_start=6)
    await desk.say(" And")
    first, second, third = sentences_body(desk.rerouting.sentences)
    assert (first["tokens"], first["start"], first["decision"]) == (0, 0, "dec_a")
    assert second == {
        "tokens": 2,
        "state": "applied",
        "start": 6,
        "decision": "dec_b",
        "source": "computed",
        "mixture": [{"name": "b", "weight": 1.0, "digest": "b"}],
    }
    assert third == {"tokens": 3, "state": "failed", "start": None, "reason": "words"}


def chunk(token: int | None = None, **fields: Any) -> GenerationChunk:
    return GenerationChunk(RequestId("r"), () if token is None else (token,), **fields)


async def test_a_sequence_takes_its_sentences_to_another_replica() -> None:
    words = ["", "First one.", " Then", " this.", " And", " that", " too."]
    first = ScriptedLink("first", [chunk(1), chunk(2), chunk(3, span_start=2), chunk(4), None])
    second = ScriptedLink("second", [chunk(5), chunk(6, finish_reason=FinishReason.LENGTH)])
    links = [first, second]
    picked: list[tuple[str, ...]] = []

    async def pick(request: Any, *, wait_s: float, place: WaitingPlace) -> Any:
        picked.append(request.digests)
        link = next(one for one in links if one.replica_id not in request.exclude)
        return SimpleNamespace(replica_id=link.replica_id, explanation=None), link

    desk = Desk(decided("b"), decided("c"))
    stream = SimpleNamespace(
        stopped=False,
        push=lambda tokens, **_: "".join(words[token] for token in tokens),
        finish=lambda: "",
    )
    codec: Any = SimpleNamespace(stream=lambda *_, **__: stream, places=lambda **_: None)
    replicas: Any = SimpleNamespace(
        view=view_of(*(link.replica_id for link in links)), pick=pick, places=WaitingPlaces(1024)
    )
    choice = Choice(
        SequenceSpec(TENANT, (1,), SamplingParams(max_tokens=6), (), decided("a"), 0.0, 1.0),
        ChoiceServices(replicas, codec, ManualClock(), lambda: RequestId("r"), lambda: None),
        rerouting=desk.rerouting,
    )
    text = ""
    async for delta in run_choice(choice):
        text += delta.text
        await desk.settle()
    assert text == "".join(words)
    assert [message.signed_decision for message in first.rerouted] == [b"b", b"c"]
    assert second.submitted[0].request.resumed_token_ids == (1, 2, 3, 4)
    assert second.submitted[0].spans == (SpanStart(2, b"b"),)
    assert [message.signed_decision for message in second.rerouted] == [b"c"]
    assert picked == [("a",), ("a", "b")]
