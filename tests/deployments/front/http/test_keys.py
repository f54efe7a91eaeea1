"""Checks who is let in, and the answers to those who are not."""

import pytest

from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat


@pytest.mark.parametrize(
    "header", ["Bearer nobody", "Bearer", "Basic acme", "acme", "", "Bearer acme acme"]
)
async def test_a_key_that_is_not_known_is_401(front: HttpFront, header: str) -> None:
    answer = await front.post(CHAT, chat(), None, headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")


async def test_a_body_is_not_read_without_a_key(front: HttpFront) -> None:
    answer = await front.post(CHAT, b"{", None)
    assert answer.status_code == 401


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_a_key_may_stand_in_the_header_of_another_api(front: HttpFront, header: str) -> None:
    answer = await front.post(CHAT, chat(), None, headers={header: "acme"})
    assert answer.status_code == 200


async def test_the_scheme_is_read_in_any_case(front: HttpFront) -> None:
    answer = await front.get("/v1/models", None, headers={"authorization": "bEaReR  acme"})
    assert answer.status_code == 200


async def test_two_keys_that_differ_are_nobodys(front: HttpFront) -> None:
    answer = await front.get("/v1/models", headers={"x-api-key": "globex"})
    assert answer.status_code == 401
    answer = await front.get("/v1/models", headers={"x-api-key": "acme"})
    assert answer.status_code == 200


async def test_too_many_unknown_keys_of_an_address_are_429(open_front: OpenFront) -> None:
    async with open_front(front={"failed_keys_per_minute": 2}) as front:
        statuses = [(await front.get("/v1/models", "nobody")).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        answer = await front.get("/v1/models", "nobody")
        assert answer.json()["error"]["code"] == "too_many_failed_keys"
        assert answer.headers["retry-after"] == "60"
        assert answer.headers["connection"] == "close"
        assert (await front.get("/v1/models")).status_code == 200  # a valid key passes
        front.clock.advance(61)
        assert (await front.get("/v1/models", "nobody")).status_code == 401
