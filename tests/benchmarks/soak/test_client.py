"""End of one request, read from the bytes of its answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.soak.client import BrokenAnswer, Call, SoakReply, send
from cluster.domain.request import Outcome

OK = b"HTTP/1.1 200 OK\r\n"
TEXT = b'{"choices": [{"index": 0, "text": "hi", "finish_reason": %s}]}'


def whole(body: bytes, head: bytes = OK) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(*events: bytes) -> bytes:
    data = b"".join(
        b"%x\r\n%s\r\n" % (len(event) + 8, b"data: " + event + b"\n\n") for event in events
    )
    return OK + b"transfer-encoding: chunked\r\n\r\n" + data + b"0\r\n\r\n"


@asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every connection with these bytes; None: never."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], got


async def ask(
    answer: bytes | None, *, stream: bool = False, leave: float | None = None
) -> SoakReply:
    sent: list[int] = []
    async with server(answer) as (port, _):
        call = Call("/v1/completions", "key", b"", stream=stream, leave_after=leave)
        try:
            return await send("127.0.0.1", port, call, lambda: sent.append(1))
        finally:
            assert sent == [1]


async def test_whole_answer() -> None:
    reply = await ask(whole(TEXT % b'"stop"'))
    assert (reply.outcome, reply.texts) == (Outcome.COMPLETED, {0: "hi"})


async def test_streamed_answer() -> None:
    reply = await ask(chunked(TEXT % b"null", TEXT % b'"length"', b"[DONE]"), stream=True)
    assert (reply.outcome, reply.texts) == (Outcome.COMPLETED, {0: "hihi"})


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (400, b"invalid_request", Outcome.REJECTED_INVALID),
        (401, b"invalid_api_key", Outcome.REJECTED_AUTH),
        (503, b"adapter_capacity", Outcome.FAILED_ADAPTER),
        (503, b"overloaded", Outcome.REJECTED_CAPACITY),
        (504, b"deadline_exceeded", Outcome.EVICTED_DEADLINE),
        (500, b"engine_error", Outcome.FAILED_ENGINE),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["status", "event"])
async def test_errors(status: int, code: bytes, outcome: Outcome, late: bool) -> None:
    error = b'{"error": {"code": "%s", "message": "why"}}' % code
    if late:
        reply = await ask(chunked(TEXT % b"null", error), stream=True)
    else:
        reply = await ask(whole(error, b"HTTP/1.1 %d X\r\n" % status))
    assert reply.outcome is outcome
    assert "why" in reply.detail


async def test_leaving() -> None:
    assert (await ask(None, leave=0.0)).outcome is Outcome.CANCELLED
    assert (await ask(None, leave=0.01)).outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("answer", "stream"),
    [
        (b"", False),
        (OK + b"content-length: 9\r\n\r\n{", False),
        (whole(TEXT % b'"cancelled"'), False),
        (chunked(TEXT % b"null", b"[DONE]"), True),
        (chunked(TEXT % b'"stop"'), True),
        (chunked(TEXT % b'"stop"', TEXT % b"null", b"[DONE]"), True),
        (chunked(TEXT % b'"stop"', b"[DONE]")[:-9], True),
    ],
    ids=["nothing", "half", "strange", "no end", "no done", "after the end", "cut"],
)
async def test_broken_answers(answer: bytes, stream: bool) -> None:
    with pytest.raises(BrokenAnswer):
        await ask(answer, stream=stream)
