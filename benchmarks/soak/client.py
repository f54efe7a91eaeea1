"""One request over a connection of its own, so that it is known what was sent and when."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.domain.request import Outcome
from cluster.errors import error_from_code
from deployments.front.http.problem import outcome_of

MAX_LINE = 8 * 2**20


class BrokenAnswer(Exception):
    """An answer that ends early or is not what the protocol says."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send."""

    path: str
    key: str
    body: bytes
    stream: bool = False
    leave_after: float | None = None  # seconds after sending; None: stays to the end


@dataclass(slots=True)
class SoakReply:
    """End of one request."""

    outcome: Outcome
    status: int = 0
    detail: str = ""
    texts: dict[int, str] = field(default_factory=dict)  # by choice


async def send(host: str, port: int, call: Call, on_sent: Callable[[], None]) -> SoakReply:
    """Send one request and wait for its end, or leave when the call says so.

    Raises:
        OSError: no connection, or it was lost.
        BrokenAnswer: the answer makes no sense.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_LINE)
    try:
        head = (
            f"POST {call.path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer "
            f"{call.key}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(call.body)}\r\n\r\n"
        )
        on_sent()
        writer.write(head.encode() + call.body)
        try:
            async with asyncio.timeout(call.leave_after):
                await writer.drain()
                return await _read_reply(reader, call.stream)
        except TimeoutError:
            return SoakReply(Outcome.CANCELLED)
    finally:
        writer.close()


async def _read_reply(reader: asyncio.StreamReader, stream: bool) -> SoakReply:
    try:
        status = int((await reader.readuntil(b"\r\n")).split(b" ", 2)[1])
        headers = {}
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip().lower()
        if headers.get(b"transfer-encoding") == b"chunked":
            data = await _read_chunks(reader)
        else:
            data = await reader.readexactly(int(headers[b"content-length"]))
    except (asyncio.IncompleteReadError, KeyError, IndexError, ValueError) as error:
        raise BrokenAnswer(f"the answer ends early: {error!r}") from error
    if status != 200:
        return _refused(status, json.loads(data))
    return _streamed(data) if stream else _whole(json.loads(data))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return bytes(data)


def _refused(status: int, body: Any) -> SoakReply:
    error = body["error"]
    outcome = outcome_of(error_from_code(error["code"], error["message"]))
    return SoakReply(outcome, status, f"{status} {error['code']}: {error['message']}")


def _whole(body: Any) -> SoakReply:
    reply = SoakReply(Outcome.COMPLETED, 200)
    for choice in body["choices"]:
        if choice["finish_reason"] not in ("stop", "length"):
            raise BrokenAnswer(f"finish reason {choice['finish_reason']!r}")
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        reply.texts[choice["index"]] = text
    return reply


def _streamed(data: bytes) -> SoakReply:
    reply = SoakReply(Outcome.COMPLETED, 200)
    reasons: dict[int, str] = {}
    events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    for item in events[:-1]:
        for choice in json.loads(item).get("choices", ()):
            index = choice["index"]
            if index in reasons:
                raise BrokenAnswer(f"choice {index} went on after its end")
            text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            reply.texts[index] = reply.texts.get(index, "") + text
            if choice["finish_reason"] is not None:
                reasons[index] = choice["finish_reason"]
    if not events:
        raise BrokenAnswer("a stream without events")
    if events[-1] != b"[DONE]":
        last = json.loads(events[-1])
        if "error" not in last:
            raise BrokenAnswer("a stream that ends with neither [DONE] nor an error")
        return _refused(200, last)
    if not reasons.keys() >= reply.texts.keys() or not reasons:
        raise BrokenAnswer(f"choices without an end: {reply.texts.keys() - reasons.keys()}")
    return reply
