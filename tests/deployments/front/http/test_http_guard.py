"""Connections that say too much, too little or nothing: real sockets, the real server."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from cluster.config import FrontConfig
from deployments.front.http.http_server import HttpServer
from tests.support.front_server import (
    FrontServer,
    free_port,
    front_server,
    read_answer,
    request,
)
from tests.support.small_cluster import make_base

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
QUICK = {"header_timeout_s": 0.5, "body_timeout_s": 0.5}
pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_base(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(base: Path) -> AsyncIterator[FrontServer]:
    async with front_server(base, **QUICK) as server:
        yield server


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET /health HTTP/1.1", *lines, b"", b""])


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (head(*(b"x%d: " % i + b"a" * 6000 for i in range(20))), 431, "headers_too_large"),
        (head(*([b"a: b"] * 200)), 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nx: " + b"a" * 3_000_000, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\n" + b"a" * 3_000_000, 431, "headers_too_large"),
        (b"\r\n" * 100_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414, "url_too_long"),
        (b"GET /" + b"a" * 3_000_000, 414, "url_too_long"),
        (b"\x00\x01\x02\x03", 400, "invalid_request"),
        (head(b"a\x00b: c"), 400, "invalid_request"),
        (head(b"a: b\x00c"), 400, "invalid_request"),
        (head(b"content-length: 99999999999999999999999"), 400, "invalid_request"),
        (head(b"content-length: -1"), 400, "invalid_request"),
        (head(b"content-length: 1", b"content-length: 2"), 400, "invalid_request"),
        (head(b"content-length: 1", b"transfer-encoding: chunked"), 400, "invalid_request"),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request"),  # TLS
    ],
)
async def test_a_head_that_is_no_head_is_answered_and_closed(
    front: FrontServer, data: bytes, status: int, code: str
) -> None:
    answer = await front.raw(data)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers["connection"] == "close"
    assert (await front.raw(HEALTH)).status == 200


async def test_heads_up_to_the_bounds_pass(front: FrontServer) -> None:
    assert (await front.raw(head(*([b"a: b"] * 99)))).status == 200
    assert (await front.raw(head(b"a: " + b"b" * 60_000))).status == 200
    assert (await front.raw(b"GET /health HTTP/1.0\r\n\r\n")).status == 200
    assert (await front.raw(b"\r\n\r\n" + HEALTH)).status == 200


async def test_a_head_in_small_pieces_is_counted_as_one(front: FrontServer) -> None:
    reader, writer = await front.connect()
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            writer.write(b"x: " + b"a" * 4000 + b"\r\n" if _ else b"GET / HTTP/1.1\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
    assert (await read_answer(reader)).status == 431
    writer.close()


@pytest.mark.slow
async def test_what_never_goes_on_is_closed(front: FrontServer) -> None:
    async def closed(data: bytes) -> None:
        reader, writer = await front.connect()
        writer.write(data)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()

    chunked = request(CHAT, b"", "acme").replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )
    await asyncio.gather(
        closed(b""),
        closed(b"G"),
        closed(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"),
        closed(request(CHAT, b"x" * 100, "acme")[:-50]),
        closed(request(CHAT, b"x" * 200_000, "acme")[:-50]),
        closed(chunked),
        closed(chunked + b"5\r\nabc"),
        closed(HEALTH + b"GET"),
    )
    await until(lambda: len(front.http.connections) == 0)
    assert front.cluster.work.idle


async def test_a_body_that_drips_is_given_up(front: FrontServer) -> None:
    """It never stands still for as long as the time-out, but its rate is far too low."""
    reader, writer = await front.connect()
    writer.write(request(CHAT, b"x" * 100_000, "acme")[:-100_000])

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(15):
        assert (await read_answer(reader)).status == 408
    dripping.cancel()
    writer.close()


async def test_a_body_after_its_answer_is_read_for_a_while_only(front: FrontServer) -> None:
    for key, status in (("nobody", 401), ("acme", 413)):
        reader, writer = await front.connect()
        writer.write(request(CHAT, b"", key).replace(b"h: 0", b"h: 99999999"))
        assert (await read_answer(reader)).status == status
        sent = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(15):
                while sent < 90_000_000:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
                    sent += 65_536
        assert sent < 90_000_000
        writer.close()


async def test_a_refused_body_that_ends_leaves_its_connection_open(front: FrontServer) -> None:
    reader, writer = await front.connect()
    for _ in range(3):
        writer.write(request(CHAT, b"x" * 300_000, "nobody"))
        assert (await read_answer(reader)).status == 401
    writer.write(HEALTH)
    assert (await read_answer(reader)).status == 200
    writer.close()


@pytest.mark.slow
async def test_a_client_that_goes_on_after_too_large_a_body_meets_no_broken_connection(
    front: FrontServer,
) -> None:
    body = {"model": "auto", "prompt": "x" * (FrontConfig().max_body_bytes * 3 // 2)}
    headers = {"authorization": "Bearer acme"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{front.http.port}") as client:
        for _ in range(10):
            refused = await client.post("/v1/completions", json=body, headers=headers)
            assert refused.status_code == 413
            for _ in range(3):
                assert (await client.get("/health")).status_code == 200


async def test_nobody_is_asked_to_send_a_body_that_is_refused(front: FrontServer) -> None:
    reader, writer = await front.connect()
    data = request(CHAT, b"x" * 1000, "nobody").replace(
        b"host: x", b"host: x\r\nexpect: 100-continue"
    )
    writer.write(data[:-1000])
    assert (await read_answer(reader)).status == 401
    writer.close()
    body = b'{"model": "base", "prompt": "a", "max_tokens": 1}'
    reader, writer = await front.connect()
    writer.write(
        request("/v1/completions", body, "acme").replace(
            b"host: x", b"host: x\r\nexpect: 100-continue"
        )[: -len(body)]
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(body)
    assert (await read_answer(reader)).status == 200
    writer.close()


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;" + b"e" * 1000 + b"\r\nx\r\n"])
async def test_tiny_chunks_and_their_extensions_are_bounded(
    front: FrontServer, chunk: bytes
) -> None:
    start = request(CHAT, b"", "acme").replace(b"content-length: 0", b"transfer-encoding: chunked")
    assert (await front.raw(start + chunk * 40_000)).status in (400, 0)
    ended = await front.raw(start + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
    assert ended.error["param"] == "model"  # a body of two chunks is read as one


async def test_lines_after_a_chunked_body_are_bounded(front: FrontServer) -> None:
    start = request(CHAT, b"", "acme").replace(b"content-length: 0", b"transfer-encoding: chunked")
    end = b"2\r\n{}\r\n0\r\n"
    assert (await front.raw(start + end + b"a: b\r\n" * 50 + b"\r\n")).error["param"] == "model"
    assert (await front.raw(start + end + b"a: b\r\n" * 5000)).status == 431


@pytest.mark.slow
async def test_pipelined_requests_are_answered_in_turn_up_to_a_bound(front: FrontServer) -> None:
    reader, writer = await front.connect()
    writer.write(HEALTH * 10)
    for _ in range(10):
        assert (await read_answer(reader)).status == 200
    writer.close()
    reader, writer = await front.connect()
    writer.write(HEALTH * 5000)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            answered = (await reader.read()).count(b"HTTP/1.1")
            assert answered <= 20
    writer.close()


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"foo"])
async def test_other_protocols_are_not_spoken(front: FrontServer, protocol: bytes) -> None:
    data = head(
        b"connection: upgrade",
        b"upgrade: " + protocol,
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        b"sec-websocket-version: 13",
    )
    answer = await front.raw(data + b"\x81\x85" * 1000)
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


UPGRADE = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
BODY = b'{"model": "base", "prompt": "' + b"a" * 100 + b'", "max_tokens": 1}'
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "body", "status"),
    [
        (LENGTH, BODY, 200),
        (LENGTH, BODY + HEALTH, 200),
        (LENGTH, BODY + b"\x00" * 1000, 200),
        (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), 200),
        (CHUNKED, b"%x\r\n%b\r\n0\r\na: b\r\n\r\n" % (len(BODY), BODY) + HEALTH, 200),
        (CHUNKED, b"no length", 400),
        (CHUNKED, b"0\r\n" + b"a: b\r\n" * 5000, 431),
        (b"content-length: 99999999\r\n\r\n", b"", 413),
    ],
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_request_that_asks_for_another_protocol_keeps_its_body(
    front: FrontServer, framing: bytes, body: bytes, status: int, in_pieces: bool
) -> None:
    start = b"POST /v1/completions HTTP/1.1\r\nauthorization: Bearer acme\r\n" + UPGRADE + framing
    reader, writer = await front.connect()
    for piece in (start, body[:50], body[50:]) if in_pieces else (start + body,):
        writer.write(piece)
        await asyncio.sleep(0.01)
    answer = await read_answer(reader)
    assert answer.status == status, answer.body
    assert answer.headers["connection"] == "close"
    writer.close()


@pytest.mark.parametrize("path", ["/v1/completions/", "/v1/route/", "/metrics/"])
async def test_nobody_is_sent_to_the_host_that_a_header_names(
    front: FrontServer, path: str
) -> None:
    answer = await front.post(path, "{}")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert "location" not in answer.headers


async def test_connections_of_one_address_are_bounded(base: Path) -> None:
    async with front_server(base, max_connections_per_address=4) as front:
        opened = [await front.connect() for _ in range(4)]
        for _, writer in opened:
            writer.write(b"GET")  # no longer idle
        await until(lambda: len(front.http.connections) == 4)
        await asyncio.sleep(0.1)
        answer = await front.raw(b"")
        assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
        assert len(front.http.connections) == 4
        for _, writer in opened:
            writer.close()
        await until(lambda: len(front.http.connections) == 0)
        assert (await front.raw(HEALTH)).status == 200


async def test_an_idle_connection_makes_room(base: Path) -> None:
    async with front_server(base, max_connections=3) as front:
        opened = []
        for _ in range(6):
            reader, writer = await front.connect()
            writer.write(HEALTH)
            assert (await read_answer(reader)).status == 200
            opened.append((reader, writer))
        assert len(front.http.connections) == 3
        assert await opened[0][0].read() == b""  # the oldest was closed
        for _, writer in opened:
            writer.close()


@pytest.mark.slow
async def test_a_client_that_never_reads_is_cut_off() -> None:
    sent, ended = 0, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while not scope["gone"].is_set():
                body = {"type": "http.response.body", "body": b"x" * 65_536, "more_body": True}
                await send(body)
                sent += 65_536
        finally:
            ended.set()

    gone = asyncio.Event()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        scope["gone"] = gone

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue
            gone.set()

        watching = asyncio.create_task(watch())
        await app(scope, receive, send)
        watching.cancel()

    http = HttpServer(outer, FrontConfig(port=free_port(), body_timeout_s=1), drain_s=1)
    await http.start()
    client = socket.create_connection(("127.0.0.1", http.port))
    client.sendall(HEALTH)
    began = time.monotonic()
    async with asyncio.timeout(30):
        await ended.wait()
    assert sent < 64 << 20  # what the kernel holds, not what the client would have been sent
    assert time.monotonic() - began >= 1
    client.close()
    await http.stop()


async def until(true: Any, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - asks a server
            await asyncio.sleep(0.02)
