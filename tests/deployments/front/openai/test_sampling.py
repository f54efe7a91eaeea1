"""Checks the way from the fields of a body to sampling parameters, and across the link."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from cluster.config import FrontConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.errors import RequestError
from deployments.front.http.problem import invalid_body
from deployments.front.openai.prompt_requests import chat_request, completion_request
from deployments.front.openai.wire import ChatBody, CompletionBody
from deployments.front.requests.sampling import sampling_for
from deployments.link.link_messages import Submit, decode_to_replica, encode

VOCAB = 100


def body_of(**fields: Any) -> CompletionBody:
    data = {"model": "m", "prompt": "p", **fields}
    return CompletionBody.model_validate_json(orjson.dumps(data))


def sampling_of(
    body: ChatBody | CompletionBody, prompt: int, room: int, vocab: int, limits: FrontConfig
) -> SamplingParams:
    request = chat_request(body) if isinstance(body, ChatBody) else completion_request(body)
    return sampling_for(request, prompt, room, vocab, limits)


def sampling(**fields: Any) -> SamplingParams:
    return sampling_of(body_of(**fields), 10, 50, VOCAB, FrontConfig())


def test_nothing_asked_for_changes_no_logits() -> None:
    params = sampling()
    assert not params.adjusts_logits
    assert params.min_p == 0
    neutral = sampling(
        min_p=0,
        min_tokens=0,
        presence_penalty=0,
        frequency_penalty=0.0,
        repetition_penalty=1,
        logit_bias={},
    )
    assert neutral == params


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("min_p", 0.25, 0.25),
        ("presence_penalty", -2, -2.0),
        ("frequency_penalty", 1.5, 1.5),
        ("repetition_penalty", 1.2, 1.2),
        ("min_tokens", 7, 7),
        ("logit_bias", {"99": -100, "0": 1.5}, ((0, 1.5), (99, -100.0))),
    ],
)
def test_each_field_arrives_and_crosses_the_link(field: str, value: Any, expected: Any) -> None:
    params = sampling(**{field: value})
    assert getattr(params, field) == expected
    assert params.adjusts_logits == (field != "min_p")
    message = Submit(GenerationRequest(RequestId("r"), TenantId("t"), (1,), params), b"")
    assert decode_to_replica(encode(message)) == message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_p": 1.1}, "min_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 1.5}, "min_tokens"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"01": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stop_token_ids": list(range(1025))}, "stop_token_ids"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body_of(**fields)
    error = invalid_body(caught.value)
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"min_tokens": 17}, "min_tokens"),  # 16 are generated where nothing is said
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        sampling(**fields)
    assert caught.value.param == param


def test_chat_has_the_same_fields() -> None:
    data = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "presence_penalty": 0.5,
        "min_tokens": 30,
    }
    body = ChatBody.model_validate_json(orjson.dumps(data))
    params = sampling_of(body, 10, 50, VOCAB, FrontConfig())
    assert (params.presence_penalty, params.min_tokens, params.max_tokens) == (0.5, 30, 40)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"logprobs": 2}, (16, 2, None)),
        ({"echo": True}, (16, None, None)),
        ({"echo": True, "logprobs": 0}, (16, 0, 0)),
        ({"echo": True, "logprobs": 3, "max_tokens": 0}, (0, 3, 3)),
    ],
)
def test_echoed_prompts_have_logprobs_where_asked_for(
    fields: dict[str, Any], wanted: tuple[int, int | None, int | None]
) -> None:
    params = sampling(**fields)
    assert (params.max_tokens, params.logprobs, params.prompt_logprobs) == wanted


def test_minus_one_switches_top_k_off() -> None:
    assert sampling(top_k=-1) == sampling(top_k=0) == sampling()
    assert sampling(top_k=7.0).top_k == 7


def test_an_empty_nucleus_is_the_likeliest_token() -> None:
    params = sampling(top_p=0, temperature=1.5)
    assert (params.temperature, params.top_p) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**63}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": "7"}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"temperature": "1"}, "temperature"),
        ({"echo": 1}, "echo"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop_token_ids": [2**63]}, "stop_token_ids[0]"),
        ({"min_tokens": 2**63}, "min_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": ["1", 2]}, "prompt[1]"),
        ({"prompt": [[1], ["2"]]}, "prompt[1][0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
    ],
)
def test_what_is_not_of_the_fields_type_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body_of(**fields)
    error = invalid_body(caught.value)
    assert error.param == param
    assert ";" not in error.message


CONTINUED = {"continue_final_message": True}
ANSWER = {"role": "assistant", "content": "One"}
ASKED = {"role": "user", "content": "Count"}


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([ANSWER], {**CONTINUED, "add_generation_prompt": True}, "continue_final_message"),
        ([ANSWER, ASKED], CONTINUED, "continue_final_message"),
        ([ASKED], {"top_logprobs": 1}, "top_logprobs"),
        ([ASKED], {"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ([ASKED], {"reasoning_effort": "much"}, "reasoning_effort"),
        ([ASKED], {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"reasoning_effort": "low"}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"a": "x" * 20_000}}, "chat_template_kwargs"),
        ([ASKED], {"chat_template_kwargs": {"_": 1}}, "chat_template_kwargs"),
    ],
)
def test_contradictions_of_a_chat_are_refused_by_name(
    messages: list[Any], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"model": "m", "messages": messages, **fields})
    assert invalid_body(caught.value).param == param


def test_off_values_of_a_chat() -> None:
    fields = {"top_logprobs": 0, "chat_template_kwargs": {}, "continue_final_message": False}
    body = ChatBody.model_validate({"model": "m", "messages": [ASKED], **fields})
    assert sampling_of(body, 10, 50, VOCAB, FrontConfig()).logprobs is None
