"""Clients that read streams and do next to nothing else, so that the machine is the server's."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

END_OF_HEAD = b"\r\n\r\n"
END_OF_EVENT = b"\n\n"

TokenCount = Callable[[bytes], int]
"""Tells how many tokens whole events have."""


def words_in(events: bytes) -> int:
    """Count tokens that are a blank and a word each; the rest of an event has no other blanks."""
    return events.count(b" ") - events.count(b"data: ")


def logprobs_in(events: bytes) -> int:
    """Count tokens by their lists of alternatives."""
    return events.count(b'"top_logprobs":')


def events_in(events: bytes) -> int:
    """Count events as tokens, for a server whose tokens are not known."""
    return events.count(b"data: {")


@dataclass(slots=True)
class Arrivals:
    """Collects the events of one stream."""

    id: str
    asked_at: float = 0.0  # monotonic, seconds
    tokens: int = 0
    events: int = 0
    at: list[float] = field(default_factory=list)  # monotonic seconds, of each token

    @property
    def first_after_s(self) -> float:
        """Seconds from the request's last byte to the first token."""
        return self.at[0] - self.asked_at


class StreamClient(asyncio.Protocol):
    """One connection with one streamed request."""

    def __init__(self, request: bytes, id: str, count: TokenCount, at_least: int) -> None:
        loop = asyncio.get_running_loop()
        self.arrivals = Arrivals(id)
        self.begun = loop.create_future()
        """Done when ``at_least`` tokens are there."""
        self.closed = loop.create_future()
        self._request = request
        self._count = count
        self._at_least = at_least
        self._rest = b""
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        assert isinstance(transport, asyncio.WriteTransport)
        self.arrivals.asked_at = time.monotonic()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._rest + data
        if not self._in_body:
            self._rest = data
            _, separator, data = data.partition(END_OF_HEAD)
            if not separator:
                return
            self._in_body = True
        whole, separator, self._rest = data.rpartition(END_OF_EVENT)
        if not separator:
            return
        arrivals = self.arrivals
        tokens = self._count(whole)
        arrivals.tokens += tokens
        arrivals.events += whole.count(b"data: ")
        arrivals.at.extend([now] * tokens)
        if arrivals.tokens >= self._at_least and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            said = self._rest[-500:].decode(errors="replace")
            self.begun.set_exception(ConnectionError(f"the stream ended before it began: {said}"))
        self.closed.set_result(exc)

    def close(self) -> None:
        self.transport.close()


@dataclass(frozen=True, slots=True)
class StreamsAsked:
    """Describes the requests to one server."""

    host: str
    port: int
    path: str
    key: str
    body: Mapping[str, Any]
    count: TokenCount

    async def stream(self, id: str, *, max_tokens: int, at_least: int = 1) -> StreamClient:
        """Open a connection and ask."""
        body = json.dumps({**self.body, "max_tokens": max_tokens, "stream": True}).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\nx-request-id: {id}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: StreamClient(head.encode() + body, id, self.count, at_least),
            self.host,
            self.port,
        )
        return client
