"""Checks that a sequence continues elsewhere if its replica vanishes or says that it stops."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import (
    FinishReason,
    GenerationChunk,
    SamplingParams,
    TokenLogprobs,
)
from cluster.errors import EngineError, ReplicaLost
from cluster.placement.picking.filters import PickRequest
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from cluster.waiting.patience import REPLICA_WAIT_S
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_spec import ChoiceServices, SequenceSpec
from deployments.link.link_client import ChunkSink
from deployments.link.link_messages import Submit
from tests.support.choices import run_choice
from tests.support.manual_clock import ManualClock
from tests.support.scripted_link import ScriptedLink
from tests.support.small_views import view_of

Answer = list[GenerationChunk | None]
CLOCK = ManualClock()


def chunk(
    *tokens: int,
    end: FinishReason | None = None,
    code: str | None = None,
    prompt: tuple[float, ...] = (),
) -> Any:
    return GenerationChunk(
        RequestId("r"),
        tokens,
        finish_reason=end,
        error_code=code,
        error_message="words",
        prompt_logprobs=tuple(map(TokenLogprobs, prompt)),
    )


class Replicas:
    """Picks the first replica that the request does not exclude."""

    def __init__(self, *links: ScriptedLink) -> None:
        self.links = links
        self.view = view_of(*(link.replica_id for link in links))
        self.places = WaitingPlaces(1024)
        self.waits_s: list[float] = []

    async def pick(
        self, request: PickRequest, *, wait_s: float, place: WaitingPlace
    ) -> tuple[Any, ScriptedLink]:
        self.waits_s.append(wait_s)
        link = next(one for one in self.links if one.replica_id not in request.exclude)
        return SimpleNamespace(replica_id=link.replica_id, explanation=None), link


class Words:
    """Every token is a letter."""

    stopped = False

    def push(self, tokens: tuple[int, ...], *, ends: bool) -> str:
        return "".join(chr(96 + token) for token in tokens)

    def finish(self) -> str:
        return ""


def choice_over(
    failovers: list[int], *links: ScriptedLink, left_s: float = 60.0, **services: Any
) -> Choice:
    decided = SimpleNamespace(decision=SimpleNamespace(digests=()), encoded=b"signed")
    spec = SequenceSpec(
        TenantId("acme"),
        (1,),
        SamplingParams(max_tokens=4),
        (),
        decided,
        0.0,
        CLOCK.monotonic() + left_s,  # type: ignore[arg-type]
    )
    codec: Any = SimpleNamespace(stream=lambda *_, **__: Words(), places=lambda **_: None)
    replicas: Any = services.pop("replicas", None) or Replicas(*links)
    return Choice(
        spec,
        ChoiceServices(
            replicas,
            codec,
            CLOCK,
            lambda: RequestId("r"),
            lambda: failovers.append(1),
            **services,
        ),
    )


class LinkAgain(ScriptedLink):
    """Ends at first, and has another answer for what is submitted later."""

    def submit(self, message: Submit, sink: ChunkSink) -> None:
        super().submit(message, sink)
        self.answer = [chunk(2, end=FinishReason.LENGTH)]


async def test_the_only_replica_that_was_silent_goes_on_once_it_is_back() -> None:
    only = LinkAgain("only", [chunk(1), None])
    failovers: list[int] = []
    deltas = [delta async for delta in run_choice(choice_over(failovers, only))]
    assert "".join(delta.text for delta in deltas) == "ab"
    assert only.submitted[1].request.resumed_token_ids == (1,)
    assert failovers == [1]


@pytest.mark.parametrize(
    "farewell",
    [None, chunk(end=FinishReason.ERROR, code="replica_lost")],
    ids=["vanishes", "says so"],
)
async def test_a_lost_replicas_sequence_goes_on_elsewhere(farewell: Any) -> None:
    first = ScriptedLink("first", [chunk(1, 2), farewell])
    second = ScriptedLink("second", [chunk(3), chunk(4, end=FinishReason.LENGTH)])
    failovers: list[int] = []
    deltas = [delta async for delta in run_choice(choice_over(failovers, first, second))]
    assert "".join(delta.text for delta in deltas) == "abcd"
    assert second.submitted[0].request.resumed_token_ids == (1, 2)
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 4
    assert failovers == [1]
    assert second.cancelled == []


STOPS = chunk(end=FinishReason.ERROR, code="replica_lost")


async def test_replicas_that_end_as_planned_count_for_no_limit() -> None:
    """A rolling restart ends one after another under a long answer."""
    links = [ScriptedLink(f"r{number}", [chunk(1), STOPS]) for number in range(7)]
    replicas = Replicas(*links, ScriptedLink("last", [chunk(2, end=FinishReason.LENGTH)]))
    for link in links:
        known = replicas.view.snapshot(link.replica_id)
        assert known is not None
        assert replicas.view.update(dataclasses.replace(known, draining=True, sequence=1), 1.0)
    failovers: list[int] = []
    choice = choice_over(failovers, replicas=replicas)
    deltas = [delta async for delta in run_choice(choice)]
    assert "".join(delta.text for delta in deltas) == "a" * 7 + "b"
    assert len(failovers) == choice.failovers == 7


@pytest.mark.parametrize("farewell", [None, STOPS], ids=["vanish", "fail"])
async def test_replicas_that_are_lost_otherwise_do(farewell: Any) -> None:
    links = [ScriptedLink(f"r{number}", [chunk(1), farewell]) for number in range(7)]
    with pytest.raises(ReplicaLost, match="4 replicas"):
        _ = [delta async for delta in run_choice(choice_over([], *links))]


async def test_nobody_waits_longer_for_a_replica_than_it_has_time() -> None:
    for left_s, wait_s in ((2.0, 2.0), (600.0, REPLICA_WAIT_S)):
        replicas = Replicas(ScriptedLink("only", [chunk(1, end=FinishReason.LENGTH)]))
        choice = choice_over([], replicas=replicas, left_s=left_s)
        _ = [delta async for delta in run_choice(choice)]
        assert replicas.waits_s == [wait_s]


async def test_it_is_sent_with_the_weight_that_its_tenant_has_then() -> None:
    """The weight changes while it waits for a replica."""
    only = ScriptedLink("only", [chunk(1, end=FinishReason.LENGTH)])
    weights = [1.0]

    class Slow(Replicas):
        async def pick(self, request: PickRequest, **wait: Any) -> tuple[Any, ScriptedLink]:
            weights.append(9.0)
            return await super().pick(request, **wait)

    choice = choice_over([], replicas=Slow(only), weight=lambda _: weights[-1])
    _ = [delta async for delta in run_choice(choice)]
    assert only.submitted[0].request.weight == 9.0


async def test_another_error_is_the_clients() -> None:
    only = ScriptedLink("only", [chunk(1), chunk(end=FinishReason.ERROR, code="engine_error")])
    failovers: list[int] = []
    with pytest.raises(EngineError, match="words"):
        _ = [delta async for delta in run_choice(choice_over(failovers, only))]
    assert failovers == []
    assert only.cancelled == []


@pytest.mark.parametrize("seen", [1, 2, 3, 4])
async def test_a_prompt_is_told_once_whoever_tells_it(seen: int) -> None:
    """The second replica computes the whole prompt again, in pieces of its own."""
    told = (-1.0, -2.0, -3.0, -4.0)
    first = ScriptedLink("first", [chunk(prompt=(value,)) for value in told[:seen]] + [None])
    second = ScriptedLink(
        "second", [chunk(prompt=told[:3]), chunk(7, prompt=told[3:], end=FinishReason.LENGTH)]
    )
    deltas = [delta async for delta in run_choice(choice_over([], first, second))]
    values = [item.logprob for delta in deltas for item in delta.prompt_logprobs]
    assert tuple(values) == told
    assert second.submitted[0].request.resumed_token_ids == ()


async def test_the_pick_that_is_kept_is_that_of_the_first_token() -> None:
    first = ScriptedLink("first", [chunk(1), None])
    second = ScriptedLink("second", [chunk(2, end=FinishReason.LENGTH)])
    choice = choice_over([], first, second)
    assert len([delta async for delta in run_choice(choice)]) == 2
    assert choice.picked is not None
    assert (choice.picked.replica_id, choice.replica) == ("first", "second")
