"""Counting tokens in what a client reads, in whatever pieces it comes."""

import asyncio
import itertools
from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.relay.streams import (
    StreamClient,
    TokenCount,
    events_in,
    logprobs_in,
    words_in,
)

HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
)


def chunk(text: str, logprobs: object = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs}
    data = b"data: " + orjson.dumps({"id": "chatcmpl-1", "choices": [choice]}) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


ANSWER = (
    HEAD + chunk("") + b"".join(map(chunk, (" a", " b c", " d"))) + b"e\r\ndata: [DONE]\n\n\r\n"
)


async def read(pieces: list[bytes], count: TokenCount, at_least: int = 1) -> StreamClient:
    client = StreamClient(b"", "1", count, at_least)
    client.connection_made(cast("asyncio.BaseTransport", _Nowhere()))
    for piece in pieces:
        client.data_received(piece)
    return client


class _Nowhere(asyncio.WriteTransport):
    def write(self, data: object) -> None:
        pass


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_words_are_counted_in_whatever_pieces_they_come(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(edges)]
    arrivals = asyncio.run(read(pieces, words_in)).arrivals
    assert (arrivals.tokens, arrivals.events, len(arrivals.at)) == (4, 5, 4)


async def test_an_event_in_part_counts_when_it_is_whole() -> None:
    whole = HEAD + chunk(" a")
    client = await read([whole[:-4]], words_in)
    assert client.arrivals.tokens == 0
    assert not client.begun.done()
    client.data_received(whole[-4:])
    assert client.arrivals.tokens == 1
    assert client.begun.done()


async def test_tokens_are_counted_by_their_alternatives_and_by_events() -> None:
    said = [
        {"token": " a b", "top_logprobs": [{"token": " x"}]},
        {"token": " c", "top_logprobs": []},
    ]
    answer = HEAD + chunk(" a b", {"content": said}) + chunk(" c")
    assert (await read([answer], logprobs_in)).arrivals.tokens == 2
    assert (await read([answer], events_in)).arrivals.tokens == 2


async def test_an_answer_without_a_stream_says_why() -> None:
    client = await read([b"HTTP/1.1 401 Unauthorized\r\n\r\n{"], words_in)
    client.connection_lost(None)
    with pytest.raises(ConnectionError, match="ended before it began"):
        await client.begun
