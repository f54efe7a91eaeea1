"""Streams end in one way only, whenever the client goes."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from deployments.front.http.sse import DONE, EventStream, event

SCOPE = {"type": "http"}


class Client:
    """Receives what is sent; goes away when told."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.sent if m["type"] == "http.response.body")


class Closing:
    """Counts how often a stream was closed."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


async def test_events_then_the_end() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event({"a": 1})
        yield DONE

    client, closing = Client(), Closing()
    await EventStream(events(), closing)(SCOPE, client.receive, client.send)
    assert client.body == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert client.sent[-1]["more_body"] is False
    assert closing.times == 1


async def test_a_client_that_leaves_in_the_middle_closes_the_source() -> None:
    closed = asyncio.Event()
    client, closing = Client(), Closing()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield event({"a": 1})
            client.gone.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    await EventStream(events(), closing)(SCOPE, client.receive, client.send)
    assert closed.is_set()
    assert closing.times == 1
    assert b"[DONE]" not in client.body


async def test_a_client_that_has_left_before_the_first_event_is_accounted_for() -> None:
    started = False

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal started
        started = True
        yield DONE

    client, closing = Client(), Closing()

    async def leave(message: Message) -> None:
        raise OSError("the client has gone")

    with pytest.raises(OSError, match="gone"):
        await EventStream(events(), closing)(SCOPE, client.receive, leave)
    assert not started
    assert closing.times == 1


async def test_a_failing_source_still_closes() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event({"a": 1})
        raise ValueError("broken")

    client, closing = Client(), Closing()
    with pytest.raises(ValueError, match="broken"):
        await EventStream(events(), closing)(SCOPE, client.receive, client.send)
    assert closing.times == 1
