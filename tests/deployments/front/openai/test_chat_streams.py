"""Chat completions as streams of events."""

from tests.support.front_wiring import STARTED_AT
from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, DONE, chat, deltas, events, text_of
from tests.support.scripted_replica import Speech


async def test_a_stream_opens_with_the_role_and_ends_with_done(front: HttpFront) -> None:
    front.says("Hi!")
    answer = await front.post(CHAT, chat(stream=True))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events(answer.text)
    assert done == DONE
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "i"},
        {"content": "!"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, None, "stop"]


async def test_every_chunk_has_the_same_envelope(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(stream=True))
    *chunks, _ = events(answer.text)
    for chunk in chunks:
        assert chunk["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["created"] == STARTED_AT
        assert chunk["model"] == "tiny"
        assert "usage" not in chunk


async def test_usage_is_a_chunk_of_its_own_before_done(front: HttpFront) -> None:
    front.says("Hi!")
    options = {"include_usage": True}
    answer = await front.post(CHAT, chat(stream=True, stream_options=options))
    *chunks, usage, done = events(answer.text)
    assert done == DONE
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 4,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_each_choice_has_its_opening_and_its_end(front: HttpFront) -> None:
    front.says("one", "two")
    *chunks, _ = events((await front.post(CHAT, chat(stream=True, n=2))).text)
    opening = {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [opening, opening]
    for index, text in enumerate(("one", "two")):
        assert text_of(chunks, index) == text
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == "stop"


async def test_a_stop_string_is_never_seen_in_a_stream(front: HttpFront) -> None:
    front.says("Hello STAR STOP it")
    *chunks, done = events((await front.post(CHAT, chat(stream=True, stop="STOP"))).text)
    assert done == DONE
    assert text_of(chunks) == "Hello STAR "
    assert all("STO" not in chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_streamed_character_is_never_cut(front: HttpFront) -> None:
    front.says("5 €")
    *chunks, _ = events((await front.post(CHAT, chat(stream=True))).text)
    assert [delta.get("content") for delta in deltas(chunks)] == ["", "5", " ", "€", None]


async def test_a_step_of_several_tokens_is_one_chunk(front: HttpFront) -> None:
    front.says(Speech("Hello", tokens_per_chunk=3))
    *chunks, _ = events((await front.post(CHAT, chat(stream=True))).text)
    assert [delta.get("content") for delta in deltas(chunks)] == ["", "Hel", "lo"]


async def test_logprobs_come_with_their_tokens(front: HttpFront) -> None:
    front.says("ab")
    answer = await front.post(CHAT, chat(stream=True, logprobs=True, top_logprobs=1, max_tokens=2))
    opening, *chunks, _ = events(answer.text)
    assert opening["choices"][0]["logprobs"] is None
    tokens = [c["choices"][0]["logprobs"]["content"][0]["token"] for c in chunks]
    assert tokens == ["a", "b"]


async def test_an_error_in_mid_stream_is_the_last_event(front: HttpFront) -> None:
    front.says(Speech("Hello", fail_after=2))
    answer = await front.post(CHAT, chat(stream=True))
    assert answer.status_code == 200
    *chunks, error = events(answer.text)
    assert text_of(chunks) == "He"
    assert error == {
        "error": {
            "message": "a step failed",
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
    }


async def test_an_error_before_the_first_token_has_its_status(front: HttpFront) -> None:
    front.says(Speech(fail_after=0))
    answer = await front.post(CHAT, chat(stream=True))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_error"


async def test_a_stream_is_not_to_be_cached_or_held_back(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(stream=True))
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-length" not in answer.headers


async def test_the_first_token_is_sent_before_the_second_is_there(front: HttpFront) -> None:
    front.says(Speech("Hello", hold_after=1))
    async with front.served() as client, client.stream("POST", CHAT, json=chat(stream=True)) as got:
        parts = got.aiter_text()
        seen = ""
        while "H" not in text_of(events(seen)):
            seen += await anext(parts)
        front.script.go.set()
        async for part in parts:
            seen += part
    assert text_of(events(seen)) == "Hello"
