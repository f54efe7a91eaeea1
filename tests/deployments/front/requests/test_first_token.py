"""A streamed token is sent when it comes: nothing after it is awaited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason, GenerationChunk
from deployments.front.text.text_stream import TextCodec
from deployments.link.link_client import ChunkSink, ReplicaLink
from deployments.link.link_messages import Submit
from tests.support.front_server import FrontServer, front_server, request
from tests.support.scripted_link import ScriptedLink
from tests.support.small_cluster import make_base

ASKED = '{"model": "base", "prompt": "a", "stream": true, "max_tokens": 9}'


class OpenLink(ScriptedLink):
    """Keeps the sink of the last submission, so that more can come."""

    open = True

    def submit(self, message: Submit, sink: ChunkSink) -> None:
        self.queue = sink
        super().submit(message, sink)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    return folder


def tokens(text: str, codec: TextCodec) -> list[GenerationChunk]:
    return [GenerationChunk(RequestId("1"), (number,)) for number in codec.backend.encode(text).ids]


@asynccontextmanager
async def ask(server: FrontServer, link: OpenLink) -> AsyncIterator[asyncio.StreamReader]:
    real = server.cluster.open
    server.cluster.open = [cast("ReplicaLink", link)]  # type: ignore[list-item]
    reader, writer = await server.connect()
    writer.write(request("/v1/completions", ASKED, "acme"))
    await reader.readuntil(b"\r\n\r\n")
    server.cluster.open = real
    yield reader
    writer.close()


async def texts(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    found = []
    async with asyncio.timeout(20):
        for _ in range(count):
            event = await reader.readuntil(b"\n\n")
            found.append(event.partition(b'"text":"')[2].partition(b'"')[0])
    return found


async def test_each_token_is_sent_before_the_next_one_is_there(base: Path) -> None:
    async with front_server(base) as server:
        first, second, third = tokens("xyz", server.cluster.service.codec)
        link = OpenLink("scripted", [first])
        async with ask(server, link) as reader:
            assert await texts(reader, 1) == [b"x"]
            link.queue.put_nowait(second)
            assert await texts(reader, 1) == [b"y"]
            link.queue.put_nowait(third)
            assert await texts(reader, 1) == [b"z"]


async def test_tokens_that_wait_together_stay_events_of_their_own(base: Path) -> None:
    async with front_server(base) as server:
        waiting = tokens("abcd", server.cluster.service.codec)
        end = GenerationChunk(RequestId("1"), finish_reason=FinishReason.LENGTH)
        async with ask(server, OpenLink("scripted", [*waiting, end])) as reader:
            assert await texts(reader, 5) == [b"a", b"b", b"c", b"d", b""]
            async with asyncio.timeout(20):
                assert b"data: [DONE]" in await reader.readuntil(b"\n\n")
