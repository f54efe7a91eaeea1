"""``braid router add``, ``list``, ``show`` and ``rm``: what is sent, what people see."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router_service.routers.static import save_static

ROUTES = "/admin/v1/routers"
CARD = {
    "name": "both",
    "kind": "static",
    "state": "serving",
    "source": "added",
    "version": "ab" * 32,
    "candidates": ["", "sql"],
}


@pytest.fixture
def run(braid: Callable[..., Any], server: Any) -> Callable[..., Any]:
    return lambda *words: braid("router", *words, "--url", server.url, "--key", "k")


def asked(server: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, body) for method, path, _, body in server.asked]


def test_an_artifact_is_uploaded(run: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    save_static(tmp_path / "both", {"sql": 1.0})
    (tmp_path / "both" / "checkpoint.safetensors").write_bytes(b"not sent")
    server.answer(
        "POST", f"{ROUTES}?name=both&replace=true&options=%7B%22a%22%3A1%7D", CARD, status=201
    )
    result = run("add", "both", tmp_path / "both", "--replace", "--options", '{"a": 1}')
    assert result.exit_code == 0, result.output
    assert "auto:both serving static abababababab" in result.stdout
    ((_, _, body),) = asked(server)
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert tar.getnames() == ["router.json", "router.safetensors"]


def test_a_kind_without_an_artifact_is_named(run: Callable[..., Any], server: Any) -> None:
    server.answer("POST", ROUTES, CARD, status=201)
    options = '{"adapters": ["a", "b"]}'
    result = run("add", "arrow", "--kind", "arrow", "--options", options, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == "static"
    ((_, _, body),) = asked(server)
    assert body == {
        "name": "arrow",
        "kind": "arrow",
        "options": {"adapters": ["a", "b"]},
        "replace": False,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "x", "."), "router.json"),
        (("add", "x", "--options", "{"), "not JSON"),
        (("add", "x", "--options", "[1]"), "JSON object"),
    ],
)
def test_faults_are_one_message(
    run: Callable[..., Any], server: Any, words: tuple[str, ...], message: str
) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert asked(server) == []


def test_routers_are_listed_and_removed(run: Callable[..., Any], server: Any) -> None:
    broken = {**CARD, "name": "arrow", "state": "broken", "problem": "an adapter is missing"}
    server.answer("GET", ROUTES, {"data": [CARD, broken]})
    server.answer("GET", f"{ROUTES}/both", CARD)
    server.answer("DELETE", f"{ROUTES}/both", {"deleted": True})
    listed = run("list")
    assert "(base), sql" in listed.stdout
    assert "an adapter is missing" in listed.stdout
    assert json.loads(run("show", "both").stdout) == CARD
    assert "both removed" in run("rm", "both").stdout


def test_the_servers_refusal_comes_with_advice(run: Callable[..., Any], server: Any) -> None:
    problem = {"error": {"code": "router_conflict", "message": "the router exists"}}
    server.answer("POST", ROUTES, problem, status=409)
    result = run("add", "x", "--kind", "arrow")
    assert result.exit_code == 1
    assert "--replace" in result.stderr
