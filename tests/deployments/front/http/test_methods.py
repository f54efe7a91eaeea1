"""HEAD, OPTIONS and Allow, over HTTP in one process."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from deployments.front.http import problem
from deployments.front.http.methods import EXPOSED_HEADERS, install_methods

PAGE = "https://chat.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-os",
}


def client_of(*origins: str) -> TestClient:
    app = FastAPI(openapi_url=None)
    problem.install(app)
    routes = APIRouter(prefix="/things")

    @routes.get("")
    async def read() -> PlainTextResponse:
        return PlainTextResponse("twelve bytes")

    @routes.post("")
    async def write() -> PlainTextResponse:
        return PlainTextResponse("written", headers={"x-braid-decision": "d"})

    @app.post("/only-post")
    async def only() -> PlainTextResponse:
        return PlainTextResponse("")

    app.include_router(routes)
    install_methods(app, origins)
    return TestClient(app)


def test_head_is_get_without_a_body() -> None:
    answer = client_of().head("/things")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "12"
    assert client_of().head("/nowhere").status_code == 404


def test_allow_has_the_methods_of_all_routes_of_a_path() -> None:
    for method, path, allowed in (
        ("PUT", "/things", "GET, HEAD, POST"),
        ("OPTIONS", "/things", "GET, HEAD, POST"),
        ("GET", "/only-post", "POST"),
        ("DELETE", "/only-post", "POST"),
    ):
        answer = client_of().request(method, path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed
        error = answer.json()["error"]
        assert error["code"] == "method_not_allowed"
        assert error["message"].endswith(f"not {method}")
    head = client_of().head("/only-post")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")


def test_pages_may_not_call_by_default() -> None:
    assert client_of().options("/things", headers=PREFLIGHT).status_code == 405
    answer = client_of().post("/things", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in answer.headers


def test_pages_that_are_named_may_call() -> None:
    client = client_of("https://other.example.com", PAGE)
    asked = client.options("/things", headers=PREFLIGHT)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    answer = client.post("/things", headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == set(EXPOSED_HEADERS)
    assert "access-control-allow-credentials" not in answer.headers
    foreign = {**PREFLIGHT, "origin": "https://evil.example.com"}
    assert client.options("/things", headers=foreign).status_code == 400
    assert client_of("*").options("/things", headers=foreign).status_code == 200
