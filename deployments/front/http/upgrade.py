"""Receives the body of a request that also asks for another protocol.

Nothing else is spoken here, so such a request is answered as if it had not asked, as RFC 9110 has
it. The parser takes what follows the head of one for the other protocol; the body is given to
another parser, behind a head that says no more than how long the body is.
"""

from typing import Protocol

import httptools

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class BodyReceiver(Protocol):
    """Receives a body."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line after a chunked body."""

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""

    def on_message_complete(self) -> None:
        """Take note of the body's end."""


class _Behind:
    """Passes on what follows the head that was made up."""

    def __init__(self, receiver: BodyReceiver) -> None:
        self._receiver = receiver
        self._in_body = False

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            self._receiver.on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._receiver.on_body(body)

    def on_message_complete(self) -> None:
        self._receiver.on_message_complete()


def has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell that a body follows a head; names are in lower case."""
    return any(name in _FRAMING and value.strip(b"0") != b"" for name, value in headers)


def body_parser(
    headers: list[tuple[bytes, bytes]], receiver: BodyReceiver
) -> httptools.HttpRequestParser:
    """Return a parser that has read a head, framed as ``headers`` say, and expects its body."""
    parser = httptools.HttpRequestParser(_Behind(receiver))
    lines = [name + b": " + value + b"\r\n" for name, value in headers if name in _FRAMING]
    parser.feed_data(b"POST / HTTP/1.1\r\nconnection: close\r\n" + b"".join(lines) + b"\r\n")
    return parser
