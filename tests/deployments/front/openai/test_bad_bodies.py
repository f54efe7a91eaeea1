"""Bodies that are refused: the status, the code and the name of the field."""

import gzip
import json
from typing import Any

import pytest

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


async def refused(
    front: HttpFront, path: str, body: object, param: str | None, code: str = "invalid_request"
) -> str:
    """Return the message of a 400 that names ``param``; no replica has heard of it."""
    answer = await front.post(path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"] == param
    assert answer.headers["x-should-retry"] == "false"
    assert front.script.submitted == []
    return str(error["message"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": "x" * 600}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
        ({"messages": [IMAGE]}, "messages[0].content[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 2}, "min_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"adapters": [{"name": "sql", "wait": 1}]}, "adapters[0].wait"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"temprature": 1}, "temprature"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_chat_is_refused_by_the_name_of_its_field(
    steady_front: HttpFront, fields: dict[str, Any], param: str
) -> None:
    message = await refused(steady_front, CHAT, chat(**fields), param)
    assert message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 20, "n": 10}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"messages": []}, "messages"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_completion_is_refused_by_the_name_of_its_field(
    steady_front: HttpFront, fields: dict[str, Any], param: str
) -> None:
    message = await refused(
        steady_front, COMPLETIONS, completion(**{"prompt": "a", **fields}), param
    )
    assert message.startswith(f"{param}: ")


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_a_field_that_is_missing_is_named(steady_front: HttpFront, missing: str) -> None:
    body = chat()
    del body[missing]
    await refused(steady_front, CHAT, body, missing)


async def test_several_faults_are_told_at_once(steady_front: HttpFront) -> None:
    message = await refused(steady_front, CHAT, chat(temperature=9, top_p=9, n=99), "temperature")
    for name in ("temperature", "top_p", "n"):
        assert f"{name}: " in message


async def test_a_misspelt_field_has_a_hint(steady_front: HttpFront) -> None:
    message = await refused(steady_front, CHAT, chat(temprature=1), "temprature")
    assert "'temperature'" in message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"3"], ids=repr)
async def test_what_is_no_json_object_is_refused(steady_front: HttpFront, body: bytes) -> None:
    await refused(steady_front, CHAT, body, None)


async def test_a_prompt_beyond_the_context_is_refused(steady_front: HttpFront) -> None:
    long = "a" * 200
    await refused(steady_front, CHAT, chat(long), "prompt", "context_length_exceeded")
    body = completion(long)
    message = await refused(steady_front, COMPLETIONS, body, "prompt", "context_length_exceeded")
    assert "200" in message


async def test_a_prompt_far_beyond_the_context_is_refused(steady_front: HttpFront) -> None:
    long = "a" * 50_000
    await refused(steady_front, CHAT, chat(long), "messages", "context_length_exceeded")
    await refused(steady_front, COMPLETIONS, completion(long), "prompt", "context_length_exceeded")


async def test_a_conversation_of_more_turns_than_the_context_has_tokens(
    steady_front: HttpFront,
) -> None:
    turns = [{"role": "user", "content": ""}] * 300
    await refused(steady_front, CHAT, chat(messages=turns), "messages", "context_length_exceeded")


async def test_a_router_decides_for_one_prompt(steady_front: HttpFront) -> None:
    await refused(steady_front, COMPLETIONS, completion(["a", "b"], model="auto"), "prompt")


async def test_too_many_log_probabilities_are_refused(steady_front: HttpFront) -> None:
    body = completion(["a"] * 128, logprobs=20, max_tokens=150)
    await refused(steady_front, COMPLETIONS, body, "logprobs")


async def test_a_body_that_is_too_large_is_413(steady_front: HttpFront) -> None:
    answer = await steady_front.post(CHAT, chat("a" * 5_000_000))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


async def test_a_body_that_is_announced_as_too_large_is_not_read(steady_front: HttpFront) -> None:
    answer = await steady_front.post(CHAT, b"{}", headers={"content-length": "999999999"})
    assert answer.status_code == 413


async def test_a_body_of_too_many_values_is_413(steady_front: HttpFront) -> None:
    body = json.dumps(completion([[1, 2]] * 40_000)).encode()
    answer = await steady_front.post(COMPLETIONS, body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


async def test_a_route_needs_one_text(steady_front: HttpFront) -> None:
    for body in ({}, {"prompt": "a", "messages": chat()["messages"]}, {"prompt": 3}):
        await refused(steady_front, "/v1/route", body, "prompt")
    await refused(steady_front, "/v1/route", {"prompt": "a", "stream": True}, "stream")


async def test_a_packed_body_is_told_as_such(front: HttpFront) -> None:
    body = gzip.compress(json.dumps(chat()).encode())
    answer = await front.post(CHAT, body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "content-encoding: packed bodies are not read" in answer.json()["error"]["message"]
    answer = await front.post(CHAT, b"{", headers={"content-encoding": "identity"})
    assert "not valid JSON" in answer.json()["error"]["message"]
