"""OpenAI's own client reads the answers, streams and errors of a real server."""

from collections.abc import AsyncIterator

import openai
import pytest

from tests.support.http_front import HttpFront
from tests.support.scripted_replica import Speech


@pytest.fixture
async def client(front: HttpFront) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        front.served() as served,
        openai.AsyncOpenAI(
            api_key="acme", base_url=f"{served.base_url}/v1", max_retries=0
        ) as client,
    ):
        yield client


async def test_a_chat(front: HttpFront, client: openai.AsyncOpenAI) -> None:
    front.says("Hello there.")
    answer = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "Hello there."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 34


async def test_a_streamed_chat(front: HttpFront, client: openai.AsyncOpenAI) -> None:
    front.says("Hello there.")
    stream = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "Hello there."
    assert chunks[-1].usage is not None


async def test_a_completion_with_logprobs(front: HttpFront, client: openai.AsyncOpenAI) -> None:
    front.says("ab")
    answer = await client.completions.create(
        model="auto", prompt="sql", logprobs=1, max_tokens=2, extra_body={"explain": True}
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b"]


async def test_the_models(front: HttpFront, client: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert "org/tiny" in listed
    assert (await client.models.retrieve("org/tiny")).id == "org/tiny"


async def test_errors_have_the_clients_own_classes(
    front: HttpFront, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.completions.create(model="ghost", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.completions.create(model="tiny", prompt="a", n=99)
    assert wrong.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="nobody").models.list()


async def test_an_error_in_mid_stream_is_raised(
    front: HttpFront, client: openai.AsyncOpenAI
) -> None:
    front.says(Speech("Hello", fail_after=2))
    stream = await client.completions.create(model="tiny", prompt="a", stream=True)
    said = ""
    with pytest.raises(openai.APIError, match="a step failed"):  # noqa: PT012 - read until then
        async for chunk in stream:
            said += chunk.choices[0].text
    assert said == "He"
