"""Checks what a client sees while replicas come, go, refuse and fail."""

import asyncio

import pytest

from cluster.domain.ids import TenantId
from cluster.domain.request import FinishReason
from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import (
    CHAT,
    COMPLETIONS,
    DONE,
    chat,
    completion,
    events,
    text_of,
)
from tests.support.scripted_replica import Speech


async def test_without_a_replica_a_request_is_503_after_a_while(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        answer = await front.in_time(front.post(CHAT, chat()))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["x-should-retry"] == "true"
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("starting", "overloaded_error")


async def test_a_request_waits_for_the_first_replica(open_front: OpenFront) -> None:
    async with open_front(replicas=0) as front:
        asked = asyncio.create_task(front.post(CHAT, chat()))
        await asyncio.sleep(0)
        replica = await front.cluster.add_replica()
        answer = await asked
        assert answer.status_code == 200
        assert answer.headers["x-braid-replica"] == replica.id


async def test_the_context_is_the_configured_one_before_a_replica_speaks(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=0, engine={"max_model_len": 64}) as front:
        assert (await front.get("/v1/models/tiny")).json()["max_model_len"] == 64


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_full_replica_is_503(front: HttpFront, stream: bool) -> None:
    front.says(Speech(fail_after=0, error=("overloaded", "the queue is full")))
    answer = await front.post(CHAT, chat(stream=stream))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["message"] == "the queue is full"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("engine_error", 500),
        ("adapter_load_failed", 503),
        ("adapter_capacity", 503),
        ("grammar_too_complex", 400),
        ("decision_rejected", 500),
        ("deadline_exceeded", 504),
        ("of_a_newer_peer", 500),
    ],
)
async def test_a_replicas_error_keeps_its_code_and_status(
    front: HttpFront, code: str, status: int
) -> None:
    front.says(Speech(fail_after=0, error=(code, "as scripted")))
    answer = await front.post(CHAT, chat())
    assert answer.status_code == status
    error = answer.json()["error"]
    assert "as scripted" in error["message"]
    assert error["code"] == ("engine_error" if code == "of_a_newer_peer" else code)


async def test_a_request_whose_time_is_up_is_504(front: HttpFront) -> None:
    front.says(Speech("Hel", ends=FinishReason.DEADLINE))
    answer = await front.post(CHAT, chat())
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("deadline_exceeded", "timeout_error")
    *_, error = events((await front.post(CHAT, chat(stream=True))).text)
    assert error["error"]["code"] == "deadline_exceeded"
    assert (await front.figures())[
        'braid_requests_total{endpoint="chat",outcome="evicted_deadline",tenant="acme"}'
    ] == 2


async def test_a_replica_is_told_when_a_requests_time_is_up(open_front: OpenFront) -> None:
    async with open_front(front={"request_timeout_s": 7}) as front:
        await front.post(CHAT, chat())
        assert front.script.submitted[0].deadline_at is None  # clocks of two machines differ
        assert front.script.times_left == [7]


async def test_many_streams_at_once_have_each_their_own_text(open_front: OpenFront) -> None:
    async with open_front(replicas=3) as front:
        speeches = [f"answer {number} " * 5 for number in range(40)]
        front.says(*speeches)
        asked = [front.post(COMPLETIONS, completion(stream=True, max_tokens=150)) for _ in speeches]
        answers = await asyncio.gather(*asked)
        texts = [text_of(events(answer.text)) for answer in answers]
        assert sorted(texts) == sorted(speeches)


@pytest.mark.parametrize("way", ["die_after", "leave_after"])
@pytest.mark.parametrize("tokens", [0, 3])
async def test_an_answer_goes_on_where_a_replica_is_lost(
    open_front: OpenFront, way: str, tokens: int
) -> None:
    async with open_front(replicas=2) as front:
        front.says(Speech("Hello there.", **{way: tokens}), "Hello there.")  # type: ignore[arg-type]
        answer = await front.post(COMPLETIONS, completion("abc", seed=7))
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["text"] == "Hello there."
        assert answer.json()["usage"]["completion_tokens"] == 13
        first, second = front.script.submitted
        assert len(first.resumed_token_ids) == 0
        assert len(second.resumed_token_ids) <= tokens
        assert front.script.decisions[1] == front.script.decisions[0]
        assert (second.prompt_token_ids, second.sampling) == (
            first.prompt_token_ids,
            first.sampling,
        )
        figures = await front.figures()
        assert figures["braid_failovers_total"] == 1
        assert front.logged("front.failover")


async def test_a_stream_goes_on_from_its_tokens_on_another_replica(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=2) as front:
        front.says(Speech("Hello there.", leave_after=5), "Hello there.")
        answer = await front.post(COMPLETIONS, completion(stream=True, logprobs=0))
        *chunks, done = events(answer.text)
        assert done == DONE
        assert text_of(chunks) == "Hello there."
        offsets = [at for chunk in chunks for at in chunk["choices"][0]["logprobs"]["text_offset"]]
        assert offsets == [*range(12), 12]
        _, second = front.script.submitted
        assert front.text_of(second.resumed_token_ids) == "Hello"


async def test_a_lost_replica_is_not_asked_again(open_front: OpenFront) -> None:
    async with open_front(replicas=2) as front:
        front.says(Speech(die_after=0), "one", "two", "three")
        replicas = set()
        for _ in range(3):
            answer = await front.post(CHAT, chat())
            assert answer.status_code == 200
            replicas.add(answer.headers["x-braid-replica"])
        (left,) = [replica.id for replica in front.replicas if replica.alive]
        assert replicas == {left}


async def test_a_request_that_loses_every_replica_fails(open_front: OpenFront) -> None:
    async with open_front(replicas=4) as front:
        front.says(Speech("Hello", leave_after=0))
        answer = await front.post(CHAT, chat())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "replica_lost"
        assert len(front.script.submitted) == 4


async def test_a_stream_that_loses_every_replica_ends_with_an_error(
    open_front: OpenFront,
) -> None:
    async with open_front(replicas=4) as front:
        front.says(Speech("Hello", leave_after=2))
        *chunks, error = events((await front.post(CHAT, chat(stream=True))).text)
        assert text_of(chunks) == "He"
        assert error["error"]["code"] == "replica_lost"


async def test_full_queues_are_503_after_a_while(front: HttpFront) -> None:
    (replica,) = front.replicas
    replica.queued, replica.backlog = 10_000, ((TenantId("acme"), 70_000),)
    replica.publish()
    queued = 0.0
    while queued != replica.queued:
        queued = (await front.figures())['braid_replica_queued_requests{replica="r0"}']
        await asyncio.sleep(0.001)
    answer = await front.in_time(front.post(CHAT, chat()))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "overloaded"
    assert front.script.submitted == []
    other = await front.post(CHAT, chat(), "globex")
    assert other.status_code == 200, "a tenant that has nothing there is taken"
