"""Checks that what the server sends is accepted back, and what of a message the model reads."""

from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from deployments.front.http.problem import invalid_body
from deployments.front.openai.wire import ChatBody

USER = {"role": "user", "content": "a"}


def chat(*messages: dict[str, Any]) -> ChatBody:
    return ChatBody.model_validate_json(orjson.dumps({"model": "m", "messages": messages}))


def problem_of(*messages: dict[str, Any]) -> Any:
    with pytest.raises(ValidationError) as caught:
        chat(*messages)
    return invalid_body(caught.value)


def test_the_official_client_sends_its_own_message_back() -> None:
    message = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": "b", "refusal": None}
    )
    for sent in (message.model_dump(), message.to_dict()):
        assert chat(USER, sent, USER).messages[1].for_template() == {
            "role": "assistant",
            "content": "b",
        }


@pytest.mark.parametrize(
    "member",
    [
        {"refusal": None},
        {"tool_calls": None},
        {"tool_calls": []},
        {"function_call": None},
        {"annotations": []},
        {"audio": None},
        {"reasoning_content": "x"},
        {"reasoning": None},
        {"id": "m1"},
        {"provider_specific_fields": {}},
        {"name": "bob"},
        {"never heard of": [1, {"a": None}]},
    ],
)
def test_members_that_change_nothing(member: dict[str, Any]) -> None:
    plain = chat(USER, {"role": "assistant", "content": "b"}, USER)
    told = chat(USER, {"role": "assistant", "content": "b", **member}, USER)
    assert [m.for_template() for m in told.messages] == [m.for_template() for m in plain.messages]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}], "a"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_as_text(content: Any, text: str) -> None:
    assert chat({"role": "assistant", "content": content}).messages[0].text == text


def test_a_refusal_is_what_the_assistant_said() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot"}
    assert chat(message).messages[0].text == "I cannot"


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "param", "said"),
    [
        (
            {"content": [{"type": "image_url", "image_url": {"url": "u"}}]},
            "content[0].type",
            "text",
        ),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, "content[0].type", "text"),
        ({"content": [{"type": "text"}]}, "content[0]", "'text'"),
        ({"content": [{"text": "a"}]}, "content[0].type", "required"),
        ({"content": ["a"]}, "content[0]", "object"),
        ({"content": 5}, "content", "string"),
        ({"content": "a", "tool_calls": [CALL]}, "tool_calls", "tools"),
        ({"content": "a", "function_call": {"name": "f"}}, "function_call", "tools"),
        ({"content": "a", "audio": {"id": "x"}}, "audio", "audio"),
        ({"content": "a", "role": "tool"}, "role", "'assistant'"),
    ],
)
def test_what_would_have_to_be_read_is_refused_in_one_sentence(
    message: dict[str, Any], param: str, said: str
) -> None:
    error = problem_of({"role": "assistant", **message})
    assert error.param == f"messages[0].{param}"
    assert said in error.message
    assert ";" not in error.message
    assert len(error.message) < 200
