"""Each answer has an id, and each request leaves one line of that id in the log."""

from typing import Any

import pytest

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion
from tests.support.scripted_replica import Speech


async def test_a_clients_own_id_is_kept(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(), headers={"x-request-id": "my-own.id_1"})
    assert answer.headers["x-request-id"] == "my-own.id_1"
    assert answer.json()["id"] == "chatcmpl-my-own.id_1"
    assert front.script.submitted[0].http_request == "my-own.id_1"
    (line,) = front.logged()
    assert line["request"] == "my-own.id_1"


@pytest.mark.parametrize("id", ["", "a b", "x" * 129, 'a"b', "ä".encode().decode("latin-1")])
async def test_an_id_that_is_not_well_formed_is_replaced(front: HttpFront, id: str) -> None:
    answer = await front.get("/v1/models", headers={"x-request-id": id.encode("latin-1")})
    found = answer.headers["x-request-id"]
    assert found != id
    assert len(found) == 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/nothing", 404),
        ("GET", CHAT, 405),
        ("POST", CHAT, 400),
        ("GET", "/health", 200),
        ("OPTIONS", "/v1/models", 405),
    ],
)
async def test_every_answer_has_an_id(
    front: HttpFront, method: str, path: str, status: int
) -> None:
    answer = await front.ask(method, path, content=b"{}" if method == "POST" else b"")
    assert answer.status_code == status
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_versions_line_has_names_counts_and_times(front: HttpFront) -> None:
    front.says(Speech("Hello.", cached_tokens=2, queued_s=0.25))
    answer = await front.post(COMPLETIONS, completion("sql and", model="auto"))
    (line,) = front.logged()
    (term,) = line.pop("mixture")
    assert (term["adapter"], term["weight"], len(term["digest"])) == ("sql", 1.0, 12)
    line.pop("pick", None)  # one in a hundred is explained
    assert line == {
        "event": "request",
        "log_level": "info",
        "request": answer.headers["x-request-id"],
        "tenant": "acme",
        "method": "POST",
        "path": COMPLETIONS,
        "endpoint": "completions",
        "model": "auto",
        "status": 200,
        "outcome": "completed",
        "decision": answer.headers["x-braid-decision"],
        "source": "computed",
        "router": "words",
        "replica": "r0",
        "choices": 1,
        "prompt_tokens": 7,
        "cached_tokens": 2,
        "completion_tokens": 7,
        "queue_ms": 250.0,
        "ttft_ms": 0.0,
        "route_ms": 0.0,
        "total_ms": 0.0,
    }


@pytest.mark.parametrize(
    ("body", "key", "expected"),
    [
        (chat(n=99), "acme", {"status": 400, "outcome": "rejected_invalid", "param": "n"}),
        (chat(model="ghost"), "acme", {"status": 404, "code": "model_not_found"}),
        (chat(), "nobody", {"status": 401, "outcome": "rejected_auth"}),
        (chat(tools=[1]), "acme", {"param": "tools", "code": "invalid_request"}),
    ],
    ids=["invalid", "unknown", "key", "unserved"],
)
async def test_a_refused_requests_line_says_why(
    front: HttpFront, body: dict[str, Any], key: str, expected: dict[str, Any]
) -> None:
    await front.post(CHAT, body, key)
    (line,) = front.logged()
    assert line.items() >= expected.items()


async def test_a_failed_requests_line_says_why(front: HttpFront) -> None:
    front.says(Speech("Hello", fail_after=2))
    await front.post(CHAT, chat(stream=True))
    (line,) = front.logged()
    assert (line["status"], line["outcome"], line["code"]) == (200, "failed_engine", "engine_error")
    assert line["stream"] is True
    assert line["completion_tokens"] == 2


async def test_no_line_has_text_of_anybody(front: HttpFront) -> None:
    front.says("a secret answer")
    await front.post(CHAT, chat("a secret prompt", user="a secret user", model="a secret model"))
    await front.post(CHAT, chat("a secret prompt", stop="secret"))
    await front.post(CHAT, {"a secret field": 1})
    assert len(front.logged()) == 3
    assert "secret" not in str(front.lines)


async def test_probes_leave_no_line_unless_they_bring_an_id(front: HttpFront) -> None:
    for path in ("/health", "/ready", "/-/healthz"):
        await front.get(path, None)
    assert front.logged() == []
    await front.get("/ready", None, headers={"x-request-id": "probe-1"})
    assert [line["request"] for line in front.logged()] == ["probe-1"]


async def test_a_failover_is_counted_in_the_line(front: HttpFront) -> None:
    second = await front.cluster.add_replica()
    front.says(Speech("Hello", leave_after=2), "Hello")
    await front.post(CHAT, chat())
    (line,) = front.logged()
    assert line["failovers"] == 1
    await second.die()
