"""Penalties, bias, echo and structured output over HTTP, whole and streamed."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPT = "The cat sat on the mat. The cat"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "people": {"type": "integer", "minimum": 0, "maximum": 99999999},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.fixture
def acme(cluster: LocalCluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key=cluster.keys["acme"], max_retries=0, timeout=120
    ) as client:
        yield client


def complete(client: openai.OpenAI, **fields: Any) -> tuple[str, str]:
    """Return the text and finish reason of a greedy completion; streamed must equal whole."""
    known = {name: fields.pop(name) for name in list(fields) if name in KNOWN}
    wish = {"model": BASE, "prompt": PROMPT, "max_tokens": 20, "temperature": 0, **known}
    whole = client.completions.create(**wish, extra_body=fields)
    chunks = [
        chunk.choices[0]
        for chunk in client.completions.create(**wish, extra_body=fields, stream=True)
    ]
    assert "".join(chunk.text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].finish_reason == whole.choices[0].finish_reason
    return whole.choices[0].text, whole.choices[0].finish_reason


KNOWN = {
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "seed",
    "stop",
    "echo",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
}


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 2, "presence_penalty": 2},
        {"logit_bias": {"216": 100}},
        {"temperature": 1, "seed": 3, "min_p": 0.9, "repetition_penalty": 1.1},
    ],
)
def test_each_option_changes_the_text(acme: openai.OpenAI, fields: dict[str, Any]) -> None:
    assert complete(acme, **fields)[0] != complete(acme)[0]


def test_min_tokens_hold_off_stop_strings(acme: openai.OpenAI) -> None:
    free, _ = complete(acme)
    cut = free[1:4]
    assert complete(acme, stop=[cut]) == (free[:1], "stop")
    text, reason = complete(acme, stop=[cut], min_tokens=20)
    assert (text, reason) == (free, "length")


@pytest.mark.parametrize("model", [BASE, "sql"])
def test_echo_begins_with_the_prompt(acme: openai.OpenAI, model: str) -> None:
    free, _ = complete(acme, model=model)
    assert complete(acme, model=model, echo=True)[0] == PROMPT + free


def test_echo_of_several_prompts_and_choices(acme: openai.OpenAI) -> None:
    prompts = ["One two", "Red blue"]
    answer = acme.completions.create(
        model=BASE, prompt=prompts, echo=True, n=2, max_tokens=2, temperature=1, seed=1
    )
    assert [choice.text[:7] for choice in answer.choices] == ["One two"] * 2 + ["Red blu"] * 2


@pytest.mark.parametrize("model", [BASE, "sql"])
def test_prompts_are_scored_as_their_tokens_would_be_generated(
    acme: openai.OpenAI, model: str
) -> None:
    """The log-probability of a generated token is the same when it is part of the prompt."""
    wish: dict[str, Any] = {"model": model, "temperature": 0, "logprobs": 2, "echo": True}
    first = acme.completions.create(prompt=PROMPT, max_tokens=3, **wish).choices[0]
    told = first.logprobs
    assert told is not None
    count = len(told.tokens or ())
    assert len(told.token_logprobs or ()) == len(told.top_logprobs or ()) == count
    assert (told.token_logprobs or [0])[0] is None
    assert "".join(told.tokens or ()) == first.text

    scored = acme.completions.create(prompt=first.text, max_tokens=0, **wish)
    again = scored.choices[0].logprobs
    assert again is not None
    assert scored.choices[0].text == first.text
    assert scored.usage is not None
    assert (scored.usage.completion_tokens, scored.usage.prompt_tokens) == (0, count)
    assert again.tokens == told.tokens
    assert again.text_offset == told.text_offset
    assert (again.token_logprobs or [])[1:] == pytest.approx(
        (told.token_logprobs or [])[1:], abs=0.01
    )

    chunks = [
        chunk.choices[0]
        for chunk in acme.completions.create(prompt=first.text, max_tokens=0, stream=True, **wish)
    ]
    assert "".join(chunk.text for chunk in chunks) == first.text
    assert chunks[-1].finish_reason == "length"
    streamed = [
        value
        for chunk in chunks
        if chunk.logprobs is not None
        for value in chunk.logprobs.token_logprobs or ()
    ]
    assert streamed[1:] == pytest.approx((told.token_logprobs or [])[1:], abs=0.01)
    assert streamed[0] is None


@pytest.mark.parametrize("model", [BASE, "sql"])
def test_json_schema_in_chat(acme: openai.OpenAI, model: str) -> None:
    wish: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Name a city and its population as JSON."}],
        "temperature": 0,
        "max_tokens": 80,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
    }
    whole = acme.chat.completions.create(**wish).choices[0]
    assert whole.finish_reason == "stop"
    jsonschema.validate(json.loads(whole.message.content or ""), SCHEMA)
    chunks = acme.chat.completions.create(**wish, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.message.content


def test_json_object_in_chat(acme: openai.OpenAI) -> None:
    answer = acme.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": "Describe a cat as a short JSON object."}],
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_object"},
    ).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content or ""), dict)
    assert (answer.message.content or "").lstrip().startswith("{")


def test_guided_regex(acme: openai.OpenAI) -> None:
    text, reason = complete(acme, guided_regex=" (yes|no), [0-9]{3}", temperature=1, seed=2)
    assert re.fullmatch(" (yes|no), [0-9]{3}", text)
    assert reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"min_tokens": 30}, "min_tokens"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"presence_penalty": 3}, "presence_penalty"),
    ],
)
def test_bad_options_are_named(cluster: LocalCluster, fields: dict[str, Any], param: str) -> None:
    answer = cluster.complete("acme", BASE, "hello", **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
