"""Tenants' limits: what is refused, what is booked, and the headers that tell of it."""

import asyncio

import pytest

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion
from tests.support.scripted_replica import Speech


async def test_more_requests_than_a_minute_has_are_429(front: HttpFront) -> None:
    answers = [await front.post(CHAT, chat(), "rate") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    remaining = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert remaining == ["2", "1", "0", "0"]
    refused = answers[-1]
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["x-should-retry"] == "true"
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "3 requests per minute" in error["message"]


async def test_requests_come_back_with_time(front: HttpFront) -> None:
    for _ in range(3):
        await front.get("/v1/models", "rate")
    assert (await front.get("/v1/models", "rate")).status_code == 429
    front.clock.advance(20)
    assert (await front.get("/v1/models", "rate")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/tiny", "/v1/decisions/x", "/v1/route", CHAT, COMPLETIONS]
)
async def test_every_route_with_a_key_is_charged(front: HttpFront, path: str) -> None:
    method = "POST" if path in ("/v1/route", CHAT, COMPLETIONS) else "GET"
    for _ in range(3):
        assert (await front.ask(method, path, "rate", json={})).status_code != 429
    assert (await front.ask(method, path, "rate", json={})).status_code == 429


async def test_a_tenant_without_limits_has_no_headers_of_them(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat())
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_what_was_used_is_booked_and_not_what_was_reserved(front: HttpFront) -> None:
    front.says("Hello.")
    first = await front.post(COMPLETIONS, completion("12345", max_tokens=60), "tokens")
    assert first.headers["x-ratelimit-limit-tokens"] == "100"
    assert first.headers["x-ratelimit-remaining-tokens"] == "35"  # 5 and 60 are reserved
    front.says("Hello.")
    second = await front.post(COMPLETIONS, completion("12345", max_tokens=10), "tokens")
    used = 5 + 7
    assert second.headers["x-ratelimit-remaining-tokens"] == str(100 - used - 5 - 10)


async def test_more_tokens_than_a_minute_has_are_429(front: HttpFront) -> None:
    front.says("x" * 60)
    for _ in range(2):  # the second takes more than are left
        answer = await front.post(COMPLETIONS, completion(max_tokens=60), "tokens")
        assert answer.status_code == 200
    answer = await front.post(COMPLETIONS, completion(max_tokens=60), "tokens")
    assert answer.status_code == 429
    assert "100 tokens per minute" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    front.clock.advance(60)
    assert (await front.post(COMPLETIONS, completion(max_tokens=60), "tokens")).status_code == 200


async def test_more_sequences_than_places_are_refused(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(n=2), "one")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"


async def test_a_second_request_at_once_is_429_and_the_place_comes_free(front: HttpFront) -> None:
    front.says(Speech("Hello", hold_after=1))
    running = asyncio.create_task(front.post(CHAT, chat(), "one"))
    await front.until(lambda: front.script.submitted)
    refused = await front.post(CHAT, chat(), "one")
    assert refused.status_code == 429
    assert "1 sequences at once" in refused.json()["error"]["message"]
    front.script.go.set()
    assert (await running).status_code == 200
    assert (await front.post(CHAT, chat(), "one")).status_code == 200


@pytest.mark.parametrize(
    ("speech", "status"),
    [(Speech(fail_after=0), 500), (Speech(fail_after=0, error=("overloaded", "full")), 503)],
    ids=["failed", "refused"],
)
async def test_a_place_comes_free_where_a_request_fails(
    front: HttpFront, speech: Speech, status: int
) -> None:
    for _ in range(3):
        front.says(speech)
        assert (await front.post(CHAT, chat(), "one")).status_code == status


async def test_a_place_comes_free_where_a_model_is_not_there(front: HttpFront) -> None:
    for _ in range(3):
        assert (await front.post(CHAT, chat(model="ghost"), "one")).status_code == 404
    assert (await front.post(CHAT, chat(), "one")).status_code == 200


async def test_a_refused_request_is_counted_for_its_tenant(front: HttpFront) -> None:
    for _ in range(4):
        await front.post(CHAT, chat(), "rate")
    figures = await front.figures()
    labels = 'endpoint="chat",outcome="{}",tenant="rate"'
    assert figures[f"braid_requests_total{{{labels.format('completed')}}}"] == 3
    assert figures[f"braid_requests_total{{{labels.format('rejected_quota')}}}"] == 1


async def test_tokens_are_metered_by_tenant_and_adapter(front: HttpFront) -> None:
    front.says("Hello.")
    await front.post(COMPLETIONS, completion("12345", model="sql"))
    figures = await front.figures()
    metered = {name: value for name, value in figures.items() if 'tenant="acme"' in name}
    tokens = {name: value for name, value in metered.items() if "tokens" in name}
    assert 5.0 in tokens.values()
    assert 7.0 in tokens.values()
    assert any('adapter="sql"' in name for name in figures)
