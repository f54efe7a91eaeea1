"""Connections that send too much, too little or nothing. Each ends by itself."""

import socket
import time
from collections.abc import Callable

Connect = Callable[[], socket.socket]
Act = Callable[[socket.socket, str, float], None]  # socket, key, monotonic time to end at

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n"


def _post(key: str, *lines: str) -> bytes:
    head = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {key}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def _flood(start: bytes, piece: bytes) -> Act:
    """Send ``piece`` until the server has had enough."""

    def act(sock: socket.socket, _: str, until: float) -> None:
        sock.sendall(start)
        while time.monotonic() < until:
            sock.sendall(piece)

    return act


def _flood_body(lines: tuple[str, ...], piece: bytes) -> Act:
    return lambda sock, key, until: _flood(_post(key, *lines), piece)(sock, key, until)


def _drip(start: Callable[[str], bytes], piece: bytes, pause_s: float) -> Act:
    def act(sock: socket.socket, key: str, until: float) -> None:
        sock.sendall(start(key))
        while time.monotonic() < until:
            if piece:
                sock.sendall(piece)
            time.sleep(pause_s)

    return act


def _once(data: Callable[[str], bytes]) -> Act:
    def act(sock: socket.socket, key: str, until: float) -> None:
        sock.sendall(data(key))
        sock.settimeout(max(0.1, until - time.monotonic()))
        while sock.recv(65536):
            continue

    return act


CHUNKED = ("transfer-encoding: chunked",)
HEADERS = b"".join(b"x%d: %b\r\n" % (n, b"a" * 60_000) for n in range(9))
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"
EXTENDED = b"1;" + b"e" * 60_000 + b"\r\n \r\n"


def _unwanted(sock: socket.socket, _: str, until: float) -> None:
    """Send a body whose key is unknown."""
    _flood_body(("content-length: 999999999",), b" " * 65536)(sock, "nobody", until)


CONNECTIONS: dict[str, Act] = {
    "headers without end": _flood(
        GET, b"".join(b"x%d: %b\r\n" % (n, b"a" * 60_000) for n in range(9))
    ),
    "one header without end": _flood(GET + b"x: ", b"a" * 65536),
    "a header name without end": _flood(GET, b"a" * 65536),
    "a million tiny headers": _flood(GET, b"a:b\r\n" * 10_000),
    "a URL without end": _flood(b"GET /", b"a" * 65536),
    "blank lines": _flood(b"", b"\r\n" * 30_000),
    "noise": _flood(b"", bytes(range(256)) * 200),
    "a silent connection": _drip(lambda _: b"", b"", 0.2),
    "half a head": _drip(lambda _: GET, b"", 0.2),
    "a head that drips": _drip(lambda _: GET, b"a: b\r\n", 0.1),
    "half a body": _drip(lambda key: _post(key, "content-length: 100") + b"{", b"", 0.2),
    "a body that drips": _drip(lambda key: _post(key, "content-length: 4000000"), b" ", 0.05),
    "a body without end": _flood_body(
        ("transfer-encoding: chunked",), b"10000\r\n" + b" " * 65536 + b"\r\n"
    ),
    "tiny chunks": _flood_body(CHUNKED, b"1\r\n \r\n" * 10_000),
    "chunk extensions": _flood_body(
        ("transfer-encoding: chunked",), b"1;" + b"e" * 60_000 + b"\r\n \r\n"
    ),
    "trailers without end": _flood_body(
        ("transfer-encoding: chunked",), b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 10_000
    ),
    "a body after 401": _unwanted,
    "pipelined requests": _flood(b"", (GET + b"\r\n") * 1000),
    "absurd length": _once(lambda key: _post(key, "content-length: 99999999999999999999")),
    "expect and wait": _drip(
        lambda key: _post(key, "content-length: 100", "expect: 100-continue"), b"", 0.2
    ),
    "websocket": _once(
        lambda _: (
            GET + b"connection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
    ),
    "failed keys": _once(lambda _: _post("nobody", "content-length: 0", "connection: close")),
}
