"""Paths and methods that are not there, HEAD, and pages of other origins."""

import pytest

from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, COMPLETIONS

ORIGIN = "https://chat.example.com"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/embeddings", "/v1/models/", "/docs", "/V1/models"]
)
async def test_a_path_that_is_not_there_is_404(front: HttpFront, path: str) -> None:
    answer = await front.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("not_found", "model_not_found")
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", COMPLETIONS, "POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PATCH", "/admin/v1/adapters/one", "GET, HEAD, DELETE"),
        ("PUT", "/admin/v1/adapters", "GET, HEAD, POST"),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_405(
    front: HttpFront, method: str, path: str, allowed: str
) -> None:
    answer = await front.ask(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/openapi.json"])
async def test_head_is_get_without_a_body(front: HttpFront, path: str) -> None:
    answer = await front.ask("HEAD", path, "root")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_no_page_of_another_origin_may_call(front: HttpFront) -> None:
    answer = await front.get("/v1/models", headers={"origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers


async def test_a_configured_origin_may_call(open_front: OpenFront) -> None:
    async with open_front(front={"cors_origins": [ORIGIN]}) as front:
        answer = await front.get("/v1/models", headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        asks = {"origin": ORIGIN, "access-control-request-method": "POST"}
        preflight = await front.ask("OPTIONS", CHAT, None, headers=asks)
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        other = await front.get("/v1/models", headers={"origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in other.headers


async def test_a_slash_at_the_end_is_not_redirected(front: HttpFront) -> None:
    answer = await front.post(f"{CHAT}/", {})
    assert answer.status_code == 404


async def test_a_query_of_a_route_that_takes_none_is_left_alone(front: HttpFront) -> None:
    assert (await front.get("/v1/models?limit=3")).status_code == 200
