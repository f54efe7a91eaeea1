"""Every route of the application is asked by a test of these folders, and none without a key."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import openai_bodies
from tests.support.http_front import HttpFront
from tools.python_syntax import parse_python

OPEN = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/-/healthz"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
}
"""Routes that need no key."""
HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parent / "openai", HERE.parent / "admin")


def asked_paths(source: str) -> Iterator[tuple[str, str]]:
    """Find method and path of each call such as ``front.get("/v1/models")`` in a source.

    A placeholder of an f-string stands as ``x``, a name of a constant for its value.
    """
    for node in ast.walk(parse_python(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, arguments = node.func.attr.upper(), node.args
        if method == "ASK" and arguments and isinstance(arguments[0], ast.Constant):
            method, arguments = str(arguments[0].value), arguments[1:]
        if method in ("GET", "POST", "PUT", "DELETE") and arguments:
            path = path_of(arguments[0])
            if path is not None:
                yield method, path.partition("?")[0]


def path_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        found = getattr(openai_bodies, node.id, None)
        return found if isinstance(found, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values]
        return "".join(parts)
    return None


def serves(route: str, path: str) -> bool:
    wanted, given = route.split("/"), path.split("/")
    return len(wanted) == len(given) and all(
        one == other or (one.startswith("{") and other != "")
        for one, other in zip(wanted, given, strict=True)
    )


async def test_every_route_has_a_test(front: HttpFront) -> None:
    asked = {
        found
        for folder in FOLDERS
        for file in folder.glob("test_*.py")
        if file != Path(__file__)
        for found in asked_paths(file.read_text())
    }
    untested = {
        (method, route)
        for method, route in front.routes
        if not any(method == one and serves(route, path) for one, path in asked)
    }
    assert untested == set()


def test_a_call_of_a_route_is_found_in_a_source() -> None:
    source = 'await front.get(f"/v1/models/{name}?x=1")\nawait front.post(CHAT, chat())'
    assert set(asked_paths(source)) == {
        ("GET", "/v1/models/x"),
        ("POST", "/v1/chat/completions"),
    }
    assert serves("/v1/models/{name}", "/v1/models/x")
    assert not serves("/v1/models/{name}", "/v1/models")


async def test_no_route_but_the_open_ones_answers_without_a_key(front: HttpFront) -> None:
    assert len(front.routes) > 25
    for method, route in sorted(front.routes):
        path = re.sub(r"\{\w+\}", "x", route)
        front.clock.advance(1)  # an address may send some unknown keys in a minute
        answer = await front.ask(method, path, None)
        assert (answer.status_code == 401) == ((method, route) not in OPEN), route


async def test_no_route_of_the_administrator_answers_another_tenant(front: HttpFront) -> None:
    vllm = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
    for method, route in sorted(front.routes):
        if route.startswith("/admin/") or route in vllm:
            answer = await front.ask(method, re.sub(r"\{\w+\}", "x", route))
            assert answer.status_code == 403, route
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == (
                "permission_denied",
                "permission_denied_error",
            )
