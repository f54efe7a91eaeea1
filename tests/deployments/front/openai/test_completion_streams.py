"""Completions as streams of events."""

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import COMPLETIONS, DONE, completion, events, text_of
from tests.support.scripted_replica import Speech


async def test_a_stream_is_its_chunks_and_done(front: HttpFront) -> None:
    front.says("Hi!")
    answer = await front.post(COMPLETIONS, completion(stream=True))
    *chunks, done = events(answer.text)
    assert done == DONE
    assert [chunk["object"] for chunk in chunks] == ["text_completion"] * 4
    said = [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]
    assert said == [("H", None), ("i", None), ("!", None), ("", "stop")]


async def test_an_echo_is_the_first_chunk(front: HttpFront) -> None:
    front.says("!")
    answer = await front.post(COMPLETIONS, completion("Hello", stream=True, echo=True))
    *chunks, _ = events(answer.text)
    assert chunks[0]["choices"][0]["text"] == "Hello"
    assert text_of(chunks) == "Hello!"


async def test_an_echo_with_logprobs_scores_the_prompt_first(front: HttpFront) -> None:
    front.says("x")
    body = completion("ab", stream=True, echo=True, logprobs=0, max_tokens=1)
    *chunks, _ = events((await front.post(COMPLETIONS, body)).text)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for one in told for token in one["tokens"]] == ["a", "b", "x"]
    assert [value for one in told for value in one["token_logprobs"]] == [None, -0.5, -0.5]
    assert [at for one in told for at in one["text_offset"]] == [0, 1, 2]
    assert text_of(chunks) == "abx"


async def test_offsets_go_on_through_a_stream(front: HttpFront) -> None:
    front.says("a€b")
    *chunks, _ = events((await front.post(COMPLETIONS, completion(stream=True, logprobs=0))).text)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    tokens = [token for one in told for token in one["tokens"]]
    assert tokens[:5] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b"]
    assert [at for one in told for at in one["text_offset"]][:5] == [0, 1, 1, 1, 2]


async def test_usage_is_a_chunk_of_its_own(front: HttpFront) -> None:
    front.says("Hi!")
    body = completion("abc", stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = events((await front.post(COMPLETIONS, body)).text)
    assert done == DONE
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 3 + 4


async def test_several_prompts_are_streamed_side_by_side(front: HttpFront) -> None:
    front.says("one", "two")
    *chunks, done = events(
        (await front.post(COMPLETIONS, completion(["a", "b"], stream=True))).text
    )
    assert done == DONE
    assert [text_of(chunks, index) for index in (0, 1)] == ["one", "two"]


async def test_one_choice_that_fails_ends_all(front: HttpFront) -> None:
    front.says(Speech("one", hold_after=1), Speech("two", fail_after=2))
    *chunks, error = events((await front.post(COMPLETIONS, completion(n=2, stream=True))).text)
    assert error["error"]["code"] == "engine_error"
    assert text_of(chunks, 0) == "o"
    await front.until(lambda: front.script.cancelled)


async def test_one_choice_that_fails_is_the_answer_of_a_whole_one(front: HttpFront) -> None:
    front.says(Speech("one", hold_after=1), Speech("two", fail_after=2))
    answer = await front.post(COMPLETIONS, completion(n=2))
    assert answer.status_code == 500
    await front.until(lambda: front.script.cancelled)
