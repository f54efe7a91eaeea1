"""Checks what the openai client library sees."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def acme(cluster: LocalCluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key=cluster.keys["acme"], max_retries=0, timeout=120
    ) as client:
        yield client


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_chat_streamed_equals_whole(acme: openai.OpenAI) -> None:
    wish = {
        "model": "auto",
        "messages": ask("List every product that costs more than 20"),
        "temperature": 0,
        "max_tokens": 24,
    }
    whole = acme.chat.completions.create(**wish)
    chunks = list(
        acme.chat.completions.create(**wish, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert whole.choices[0].message.content == text
    assert text
    assert chunks[0].choices[0].delta.role == "assistant"
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert finishes[-1] == whole.choices[0].finish_reason
    assert set(finishes[:-1]) == {None}
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert {c.id for c in chunks} == {chunks[0].id}


def test_completion_with_logprobs_and_stop(acme: openai.OpenAI) -> None:
    free = acme.completions.create(
        model=BASE, prompt="One, two, three,", max_tokens=12, temperature=0, logprobs=2
    )
    choice = free.choices[0]
    assert choice.logprobs is not None
    assert len(choice.logprobs.tokens) == free.usage.completion_tokens
    for value, top in zip(
        choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 2
        assert value == pytest.approx(max(top.values()))
    cut = choice.text[4:8]
    stopped = acme.completions.create(
        model=BASE, prompt="One, two, three,", max_tokens=12, temperature=0, stop=[cut]
    )
    assert stopped.choices[0].text == choice.text[: choice.text.index(cut)]
    assert stopped.choices[0].finish_reason == "stop"


def test_several_choices_and_seeds(acme: openai.OpenAI) -> None:
    wish = {"model": BASE, "prompt": "The sea", "max_tokens": 8, "temperature": 1, "seed": 5}
    first = acme.completions.create(**wish, n=3)
    again = acme.completions.create(**wish, n=3)
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert first.usage.completion_tokens == 24


def test_models_name_parent_and_root(acme: openai.OpenAI) -> None:
    models = {model.id: model for model in acme.models.list()}
    routers = {"auto", "auto:dlp", "auto:sentences"}
    assert {BASE, *routers, "sql", "json", "cron", "shell"} == set(models)
    assert models["sql"].parent == BASE  # type: ignore[attr-defined] # vLLM's fields
    assert len(models["sql"].root) == 64  # type: ignore[attr-defined] # vLLM's fields
    assert acme.models.retrieve("sql").id == "sql"


def test_wrong_key(cluster: LocalCluster) -> None:
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="brd_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("model", ["tickets", "no-such-model", "auto:nobody"])
def test_foreign_and_unknown_models_look_alike(acme: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        acme.chat.completions.create(model=model, messages=ask("hello"))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": -0.1}, "top_p"),
        ({"nonsense": 1}, "nonsense"),
        ({"n": 1000}, "n"),
        ({"adapters": [{"name": "sql", "weight": "heavy"}]}, "adapters[0].weight"),
        ({"adapters": [{"name": "sql", "weight": 1e300}]}, "adapters[0].weight"),
        ({"adapters": [{"name": "sql"}, {"name": "sql"}]}, "adapters[1].name"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_bad_fields_are_named(cluster: LocalCluster, fields: dict[str, object], param: str) -> None:
    body = {"model": BASE, "messages": ask("hello"), **fields}
    answer = cluster.post("/v1/chat/completions", "acme", body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert param.split(".")[0].split("[")[0] in error["message"]


def test_bodies_that_are_not_requests(cluster: LocalCluster) -> None:
    for content in (b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe"):
        answer = httpx2.post(
            f"{cluster.url}/v1/chat/completions",
            headers=cluster.headers("acme"),
            content=content,
            timeout=30,
        )
        assert answer.status_code == 400, content
        assert answer.json()["error"]["message"]


def test_too_large_a_body(cluster: LocalCluster) -> None:
    answer = cluster.complete("acme", BASE, "x" * 5_000_000)
    assert answer.status_code == 413


def test_prompts_at_the_edges(cluster: LocalCluster) -> None:
    too_long = cluster.complete("acme", BASE, "word " * 4000)
    assert too_long.status_code == 400
    assert too_long.json()["error"]["code"] == "context_length_exceeded"
    empty = cluster.complete("acme", BASE, "")
    assert empty.status_code == 400
    assert empty.json()["error"]["param"] == "prompt"
    unicode = cluster.complete("acme", BASE, "naïve 日本語 🙂\u202e\x00 end")
    assert unicode.status_code == 200
    huge = cluster.complete("acme", BASE, "word " * 2020, max_tokens=10**9, ignore_eos=True)
    assert huge.status_code == 200
    assert huge.json()["choices"][0]["finish_reason"] == "length"
    usage = huge.json()["usage"]
    assert usage["total_tokens"] == 2048


def test_64_requests_at_once(acme: openai.OpenAI) -> None:
    def one(number: int) -> str:
        answer = acme.completions.create(
            model=("auto", "sql", BASE)[number % 3],
            prompt=f"Request number {number}:",
            max_tokens=4,
            temperature=0,
        )
        return answer.choices[0].finish_reason

    with ThreadPoolExecutor(64) as pool:
        ends = list(pool.map(one, range(64)))
    assert set(ends) <= {"length", "stop"}
    assert len(ends) == 64
