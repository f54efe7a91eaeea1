"""Clients that leave: their sequences end, and the log and the books say so."""

import asyncio
from typing import Any

import pytest

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion
from tests.support.scripted_replica import Speech


async def cancelled(front: HttpFront) -> float:
    figures = await front.figures()
    return sum(
        value
        for name, value in figures.items()
        if name.startswith("braid_requests_total{") and 'outcome="cancelled"' in name
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat()),
        (COMPLETIONS, completion(n=3)),
        (CHAT, chat(stream=True)),
        (COMPLETIONS, completion(stream=True, n=2)),
    ],
    ids=["whole", "whole-n", "stream", "stream-n"],
)
async def test_a_client_that_leaves_before_the_first_token_is_499(
    front: HttpFront, path: str, body: dict[str, Any]
) -> None:
    front.says(Speech(hold_after=0))
    leave = asyncio.Event()
    asked = asyncio.create_task(front.abandoned(path, body, leave))
    sequences = body.get("n", 1)
    await front.until(lambda: len(front.script.submitted) == sequences)
    leave.set()
    assert await asked == 499
    await front.until(lambda: len(front.script.cancelled) == sequences)
    assert await cancelled(front) == 1
    (line,) = [line for line in front.logged() if line["path"] == path]
    assert (line["status"], line["outcome"], line["code"]) == (499, "cancelled", "client_closed")


async def test_a_client_that_leaves_while_its_body_comes_is_499(front: HttpFront) -> None:
    status = await front.abandoned(CHAT, None, asyncio.Event())
    assert status == 499
    assert front.script.submitted == []
    assert await cancelled(front) == 1


async def test_a_client_that_is_gone_when_its_stream_begins_leaves_nothing(
    front: HttpFront,
) -> None:
    front.says(Speech("Hello", hold_after=1))
    status = await front.abandoned(CHAT, chat(stream=True), asyncio.Event(), deaf=True)
    assert status == 200
    await front.until(lambda: front.script.cancelled)
    assert await cancelled(front) == 1


async def test_a_client_that_leaves_in_mid_answer_ends_its_sequence(front: HttpFront) -> None:
    front.says(Speech("Hello", hold_after=2))
    leave = asyncio.Event()
    asked = asyncio.create_task(front.abandoned(CHAT, chat(), leave))
    await front.until(lambda: front.script.submitted)
    leave.set()
    assert await asked == 499
    await front.until(lambda: front.script.cancelled)


async def test_a_reader_that_hangs_up_in_mid_stream_ends_its_sequence(front: HttpFront) -> None:
    front.says(Speech("Hello", hold_after=2))
    async with front.served() as client:
        async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
            assert answer.status_code == 200
            await anext(answer.aiter_bytes())
        await front.until(lambda: front.script.cancelled)
        await front.until(lambda: front.logged())
    assert await cancelled(front) == 1
    line = front.logged()[0]
    assert (line["status"], line["outcome"], line["code"]) == (200, "cancelled", "client_closed")
    assert line["completion_tokens"] >= 1


async def test_tokens_of_a_reader_that_hung_up_are_booked(front: HttpFront) -> None:
    front.says(Speech("Hello", hold_after=3))
    async with front.served() as client:
        key = {"authorization": "Bearer tokens"}
        body = completion("12345", stream=True)
        async with client.stream("POST", COMPLETIONS, json=body, headers=key) as answer:
            seen = b""
            async for part in answer.aiter_bytes():
                seen += part
                if seen.count(b"data: ") == 3:
                    break
        await front.until(lambda: front.script.cancelled)
    front.says("")
    answer = await front.post(COMPLETIONS, completion("1", max_tokens=1), "tokens")
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(100 - 5 - 3 - 1 - 1)
