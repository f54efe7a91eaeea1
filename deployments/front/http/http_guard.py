"""Bounds uvicorn's HTTP protocol: what a client sends before, with and after a request.

The parser below it bounds nothing by itself: a head without end would fill memory, and a connection
that says nothing would stay. Bytes, lines and time are counted here, without a timer per request:
the server calls ``check`` on every connection once a second.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from deployments.front.http.connections import ConnectionBook
from deployments.front.http.hang_up import hung_up
from deployments.front.http.limits import (
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_PIPELINED,
    MAX_URL_BYTES,
)
from deployments.front.http.problem import error_body
from deployments.front.http.refusals import (
    BAD_CHUNKS,
    HEAD_TOO_LARGE,
    MALFORMED,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_PIPELINED,
    TOO_SLOW,
    URL_TOO_LONG,
    Refusal,
)
from deployments.front.http.upgrade import body_parser, has_body

LINGER_S = 2.0
"""A refused connection stays open, unread, so that its client can read why."""
MIN_BODY_RATE = 16 * 1024
"""Bytes a second, on average, of a body that takes longer than its time-out."""
MAX_FRAMING = 64 * 1024
"""Bytes around a body's chunks beyond as many as the body has itself."""


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Holds the bounds of one connection."""

    header_timeout_s: float
    body_timeout_s: float
    max_unread_bytes: int  # of a body that goes on after the answer


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        book: of all connections.
        limits: of this one.
    """

    def __init__(self, *args: Any, book: ConnectionBook, limits: GuardLimits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._book = book
        self._limits = limits
        self._in_body = False  # between a head's end and its message's
        self._head_bytes = 0
        self._lines = 0  # of the head, or after a chunked body
        self._head_since: float | None = None
        self._quiet_since = 0.0  # since when nothing has been open or arriving
        self._upgrading = False  # the request asked for another protocol, and has a body
        self._upgraded = False
        self._body_since = 0.0
        self._progress_at = 0.0
        self._fed = 0  # bytes given to the parser since the body began
        self._delivered = 0  # bytes of the body
        self._answered_at: float | None = None  # before the body had come whole
        self._unread = 0  # bytes after that
        self._refused_at: float | None = None
        self._stalled_since: float | None = None
        self._turn: RequestResponseCycle | None = None  # is answered; ``cycle`` is the newest

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._quiet_since = self.loop.time()
        address = self.client[0] if self.client is not None else ""
        if not self._book.add(self, address):
            self._refuse(TOO_MANY_CONNECTIONS, linger=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._book.remove(self)
        self._give_up()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused_at is not None or self._upgraded:
            return
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            known = error.__context__
            self._refuse(known if isinstance(known, Refusal) else MALFORMED)
        except httptools.HttpParserError:
            if not self._upgraded:
                self._refuse(MALFORMED)
        except httptools.HttpParserUpgrade:
            self._upgraded = True  # what follows is another protocol, which is not spoken here

    def _feed(self, data: bytes) -> None:
        if not self._in_body:
            if self._head_since is None:
                self._head_since = self.loop.time()
            room = MAX_HEAD_BYTES + 1 - self._head_bytes
            head, data = data[:room], data[room:]
            self._head_bytes += len(head)
            try:
                self.parser.feed_data(head)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._upgrading:
                    raise
                self.parser = body_parser(self.headers, self)
                data = head[upgrade.args[0] :] + data
            if not self._in_body and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE)
                return
        if data:
            self._progress_at = self.loop.time()
            self._fed += len(data)
            self.parser.feed_data(data)
        if self._in_body:
            self._check_body()

    def _check_body(self) -> None:
        if self._fed - self._delivered > MAX_FRAMING + self._delivered:
            self._refuse(BAD_CHUNKS)
        elif self._answered_at is not None and self._unread > self._limits.max_unread_bytes:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._lines = 0
        if self._head_since is None:  # it came together with the end of another request
            self._head_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            raise URL_TOO_LONG

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        if self._lines > MAX_HEADER_LINES:
            raise HEAD_TOO_LARGE
        if not self._in_body:  # lines after a chunked body are not the application's
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TOO_MANY_PIPELINED
        self._in_body = True
        self._head_bytes = self._lines = 0
        self._head_since = None
        self._body_since = self._progress_at = self.loop.time()
        self._fed = self._delivered = self._unread = 0
        self._answered_at = None
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._delivered += len(body)
        if self._answered_at is not None:
            self._unread += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrading and self.parser.should_upgrade() and has_body(self.headers):
            self._upgrading = True  # only the head is complete
            return
        self._upgraded = self._upgrading
        super().on_message_complete()
        self._in_body = False
        self._head_bytes = 0
        self._quiet_since = self.loop.time()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._turn = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        now = self.loop.time()
        self._quiet_since = now
        if self._in_body and not self._answering:
            self._answered_at = now

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_since = None

    @property
    def idle_since(self) -> float | None:
        """Implement ``Connection``."""
        if self._answering or self._in_body or self._head_since is not None:
            return None
        return self._quiet_since

    def close_idle(self) -> None:
        """Close the connection, which is idle."""
        self.transport.close()

    def check(self, now: float) -> None:
        """End the connection if its time is up."""
        if self._stalled_since is not None and now - self._stalled_since > self._patience:
            self.transport.abort()  # closing would wait for the reader
        elif self._answering and self.flow.read_paused and hung_up(self.transport):
            self.transport.abort()  # what is not read does not tell of its end
        elif self._refused_at is not None:
            if now - self._refused_at > LINGER_S:
                self.transport.abort()
        elif self._answered_at is not None and self._in_body:
            if now - self._answered_at > self._limits.header_timeout_s:
                self.transport.close()
        elif self._in_body:
            self._check_progress(now)
        elif not self._answering:
            self._check_head(now)

    @property
    def _answering(self) -> bool:
        return self._turn is not None and not self._turn.response_complete

    @property
    def _patience(self) -> float:
        return self._limits.body_timeout_s

    def _check_progress(self, now: float) -> None:
        if self.flow.read_paused:  # the front is not reading; that is not the client's fault
            self._body_since += now - self._progress_at
            self._progress_at = now
            return
        late = now - self._body_since - self._patience
        if now - self._progress_at > self._patience or self._delivered < late * MIN_BODY_RATE:
            self._refuse(TOO_SLOW)

    def _check_head(self, now: float) -> None:
        if self._head_since is not None:
            since = max(self._head_since, self._quiet_since)
            if now - since > self._limits.header_timeout_s:
                self._refuse(TOO_SLOW)
        elif self.cycle is None and now - self._quiet_since > self._limits.header_timeout_s:
            self.transport.close()  # it never said a word

    def _refuse(self, refusal: Refusal, *, linger: bool = True) -> None:
        """Answer and close, or only close where an answer is on its way already."""
        self._refused_at = self.loop.time()
        if self._answering and self._turn is not None and self._turn.response_started:
            self.transport.abort()
            return
        self._give_up()
        body = orjson.dumps(error_body(refusal.status, refusal.message, refusal.code))
        lines = [
            STATUS_LINE[refusal.status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"retry-after: 1\r\n" if refusal.status == 503 else b"",
            b"connection: close\r\n\r\n",
            body,
        ]
        self.transport.write(b"".join(lines))
        self.flow.pause_reading()
        if not linger:
            self.transport.close()

    def _give_up(self) -> None:
        """Tell the application that no client awaits its answer, and start nothing queued."""
        self.pipeline.clear()
        if self._turn is not None and not self._turn.response_complete:
            self._turn.disconnected = True
            self._turn.message_event.set()
