"""From the fields of a body to sampling parameters, and across the link."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from cluster.config import FrontConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.request import SamplingParams
from cluster.errors import RequestError
from deployments.front.problem import invalid_body
from deployments.front.sampling import sampling_of
from deployments.front.wire import ChatBody, CompletionBody
from deployments.link.messages import Submit, decode_to_replica, encode

VOCAB = 100


def body_of(**fields: Any) -> CompletionBody:
    data = {"model": "m", "prompt": "p", **fields}
    return CompletionBody.model_validate_json(orjson.dumps(data))


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
    message = Submit(RequestId("r"), TenantId("t"), (1,), params, b"")
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
