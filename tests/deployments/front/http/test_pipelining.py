"""Requests that wait behind another one on their connection: real sockets, the real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.front_server import FrontServer, front_server, read_answer, request
from tests.support.small_cluster import make_base

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
PATH = "/v1/completions"
LONG = (
    '{"model": "base", "prompt": ["a", "b", "c", "d"], "n": 16, "max_tokens": 500, '
    '"ignore_eos": true, "stream": %s}'
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_base(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(base: Path) -> AsyncIterator[FrontServer]:
    async with front_server(base) as server:
        yield server


def long(*, stream: bool) -> bytes:
    return request(PATH, LONG % ("true" if stream else "false"), "acme")


def ended(front: FrontServer, outcome: str, tenant: str = "acme") -> float:
    counter = front.cluster.metrics.requests.labels(tenant, "completions", outcome)
    value: float = counter._value.get()
    return value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behind", [b"", HEALTH, HEALTH * 3, b"GET /hea"])
async def test_a_client_that_leaves_is_noticed_whatever_it_sent_behind(
    front: FrontServer, behind: bytes, stream: bool
) -> None:
    cancelled, running = ended(front, "cancelled"), front.cluster.metrics.in_flight
    _, writer = await front.connect()
    writer.write(long(stream=stream) + behind)
    await until(lambda: running._value.get() == 1)
    writer.close()
    await until(lambda: running._value.get() == 0)
    assert ended(front, "cancelled") == cancelled + 1
    assert ended(front, "failed_engine") == 0


@pytest.mark.slow
async def test_a_large_body_behind_does_not_hide_that_the_client_left(front: FrontServer) -> None:
    cancelled, running = ended(front, "cancelled"), front.cluster.metrics.in_flight
    _, writer = await front.connect()
    writer.write(long(stream=False))
    await until(lambda: running._value.get() == 1)
    writer.write(request(PATH, b" " * 200_000, "acme")[:100_000])
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await until(lambda: running._value.get() == 0)
    assert ended(front, "cancelled") == cancelled + 1


async def test_no_refusal_is_written_into_another_answer(front: FrontServer) -> None:
    reader, writer = await front.connect()
    writer.write(long(stream=True) + HEALTH)
    received = await reader.read(300)
    writer.write(b"no request at all\r\n\r\n")
    received += await rest_of(reader)
    writer.close()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.slow
async def test_nothing_that_waited_is_answered_behind_a_refusal(front: FrontServer) -> None:
    reader, writer = await front.connect()
    writer.write(long(stream=False) + request(PATH, "{}", "rate") * 5 + b"no request\r\n\r\n")
    received = await rest_of(reader)
    writer.close()
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 400 ")
    await until(lambda: front.cluster.metrics.in_flight._value.get() == 0)
    assert ended(front, "rejected_invalid", "rate") == 0


@pytest.mark.slow
async def test_a_body_that_began_behind_another_request_has_its_own_time(base: Path) -> None:
    async with front_server(base, header_timeout_s=0.5) as front:
        body = b'{"model": "base", "prompt": "a", "max_tokens": 1}'
        slow = request(PATH, body, "acme")
        reader, writer = await front.connect()
        writer.write(request(PATH, body, "acme") + slow[:-10])
        assert (await read_answer(reader)).status == 200
        await asyncio.sleep(2.5)  # two checks of the connections
        writer.write(slow[-10:])
        assert (await read_answer(reader)).status == 200
        writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        async with asyncio.timeout(20):
            while data := await reader.read(65536):
                received += data
    except ConnectionError:
        pass
    return received


async def until(true: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(0.005)
