"""chat, route, adapters, status: what is sent, and what people see."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import ConfigError
from deployments.cli.chat import parse_term
from deployments.cli.routers import route as route_command

Braid = Callable[..., Any]
DECISION = {
    "id": "dec_1",
    "source": "computed",
    "router": "dlp",
    "router_version": "abcdef0123456789",
    "mixture": [{"name": "sql", "weight": 0.7}, {"name": "json", "weight": -0.3}],
    "scores": [
        {"name": "sql", "probability": 0.9, "kept": True},
        {"name": "(base)", "probability": 0.1, "kept": False},
    ],
}
RESIDENT = {"digest": "d1", "alias": "sql", "state": "ready", "leases": 2}
LOADING = RESIDENT | {"digest": "d2", "alias": "json", "state": "loading"}
STATUS = {
    "version": "0.1.0",
    "model": "tiny",
    "routers": ["dlp"],
    "adapters": [
        {"name": "sql", "digest": "d1", "rank": 8, "bytes": 1536, "description": "Writes SQL."},
        {"name": "json", "digest": "d2", "rank": 4, "bytes": 2 * 2**20, "description": "JSON."},
    ],
    "adapter_problems": [{"alias": "bad", "code": "x", "message": "has biases"}],
    "tenants": [
        {"id": "acme", "admin": False, "adapters": ["sql"]},
        {"id": "admin", "admin": True, "adapters": ["*"]},
    ],
    "decision_store": {"breaker": "closed", "hits": 3},
    "replicas": [
        {
            "replica_id": "r1",
            "draining": True,
            "running": 5,
            "queued": 7,
            "kv_blocks_total": 100,
            "kv_blocks_free": 25,
            "slots_total": 16,
            "adapter_bytes_used": 1024,
            "resident": [
                RESIDENT,
                RESIDENT | {"digest": "d2", "alias": "json", "state": "loading"},
            ],
        }
    ],
    "placement": {
        "version": 9,
        "replica_reason": "2: busy",
        "load": {"requests_per_s": 1.5},
        "sets": [
            {
                "adapters": ["sql", "cron"],
                "present": 1,
                "copies": 2,
                "requests_per_s": 1.5,
                "reason": "acme asks most",
            }
        ],
        "unplaced": [{"adapters": [""], "digests": ["d2"], "reason": "no room"}],
        "unknown_pins": ["ghost"],
        "policy_error": "policy.yaml: replicas.mn: unknown key",
        "tick_error": None,
        "state_error": None,
        "history": [
            {"at": 0.0, "kind": "copies", "adapter": "sql", "replica_id": "", "message": "1 -> 2"}
        ],
        "ticks": 4,
    },
}


def stream(*texts: str) -> bytes:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + "data: [DONE]\n\n").encode()


@pytest.fixture
def answering(server: Any) -> Any:
    """A server with a router that answers every chat alike."""
    server.answer("GET", "/v1/models", {"data": [{"id": "tiny"}, {"id": "auto"}]})
    headers = {"x-braid-decision": "dec_1", "x-braid-decision-source": "stored"}
    body = stream("SELECT ", "[bold]1;")
    server.answer("POST", "/v1/chat/completions", body, headers=headers)
    server.answer("GET", "/v1/decisions/dec_1", DECISION)
    server.answer("POST", "/v1/route", DECISION)
    server.answer("GET", "/admin/v1/status", STATUS)
    return server


def at(server: Any) -> tuple[str, ...]:
    return ("--url", server.url, "--key", "k")


def test_chat_shows_mixture_and_source_before_the_answer(braid: Braid, answering: Any) -> None:
    result = braid("chat", "one?", *at(answering))
    assert result.exit_code == 0
    shown = result.stdout
    assert shown.index("stored") < shown.index("0.700") < shown.index("SELECT [bold]1;")
    assert "-0.300" in shown
    bodies = [body for method, path, key, body in answering.asked if path.endswith("completions")]
    assert bodies == [
        {
            "model": "auto",
            "messages": [{"role": "user", "content": "one?"}],
            "temperature": 0.0,
            "max_tokens": 256,
            "stream": True,
        }
    ]
    assert {key for _, _, key, _ in answering.asked} == {"Bearer k"}


def test_chat_sends_an_explicit_mixture(braid: Braid, answering: Any) -> None:
    terms = ("--adapter", "sql:0.7", "--adapter", "json:-0.3", "--adapter", "cron")
    assert braid("chat", "one?", *terms, *at(answering)).exit_code == 0
    assert answering.asked[1][3]["adapters"] == [
        {"name": "sql", "weight": 0.7},
        {"name": "json", "weight": -0.3},
        {"name": "cron", "weight": 1.0},
    ]


def test_chat_without_a_router_asks_the_base(braid: Braid, answering: Any) -> None:
    answering.answer("GET", "/v1/models", {"data": [{"id": "tiny"}]})
    assert braid("chat", "one?", *at(answering)).exit_code == 0
    assert answering.asked[1][3]["model"] == "tiny"


def test_a_conversation_remembers_until_an_empty_line(braid: Braid, answering: Any) -> None:
    result = braid("chat", *at(answering), input="one\ntwo\n\nthree\n")
    assert result.exit_code == 0
    sent = [body["messages"] for _, path, _, body in answering.asked if path.endswith("ions")]
    assert [len(messages) for messages in sent] == [1, 3, 1]
    assert sent[1][1] == {"role": "assistant", "content": "SELECT [bold]1;"}


def test_a_conversation_survives_an_error(braid: Braid, answering: Any) -> None:
    refusal = {"error": {"message": "too busy", "code": "overloaded"}}
    answering.answer("POST", "/v1/chat/completions", refusal, status=503)
    result = braid("chat", *at(answering), input="one\ntwo\n")
    assert result.exit_code == 0
    assert result.stderr.count("too busy") == 2
    sent = [body["messages"] for _, path, _, body in answering.asked if path.endswith("ions")]
    assert [len(messages) for messages in sent] == [1, 1]


def test_a_weight_must_be_a_number() -> None:
    assert parse_term("a:-2.5") == {"name": "a", "weight": -2.5}
    with pytest.raises(ConfigError, match=r"NAME:0\.7"):
        parse_term("a:much")


def test_route_shows_bars_and_where_the_decision_is(braid: Braid, answering: Any) -> None:
    result = braid("route", "one?", "--router", "dlp", *at(answering))
    assert result.exit_code == 0
    for expected in ("sql", "█", "0.9000", "kept", "computed", "dlp@abcdef012345", "dec_1"):
        assert expected in result.stdout
    assert answering.asked[0][3] == {"model": "auto:dlp", "prompt": "one?"}


def test_route_as_json(braid: Braid, answering: Any) -> None:
    assert json.loads(braid("route", "x", "--json", *at(answering)).stdout) == DECISION


def test_route_without_cluster_and_demo_says_so(
    braid: Braid, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(route_command, "DEMO_ROUTER", tmp_path / "none")
    result = braid("route", "one?")
    assert result.exit_code == 1
    assert "no cluster runs" in result.stderr
    assert "braid up" in result.stderr


def test_adapters_with_size_and_residency(braid: Braid, answering: Any) -> None:
    result = braid("adapters", "list", *at(answering))
    assert result.exit_code == 0
    for expected in ("1.5 KiB", "2.0 MiB", "r1", "r1 (loading)", "Writes SQL."):
        assert expected in result.stdout
    of_acme = braid("adapters", "list", "--tenant", "acme", *at(answering)).stdout
    assert "sql" in of_acme
    assert "json" not in of_acme
    unknown = braid("adapters", "list", "--tenant", "nobody", *at(answering))
    assert unknown.exit_code == 1
    assert "there are: acme, admin" in unknown.stderr


def test_adapters_with_a_tenants_own_key(braid: Braid, answering: Any) -> None:
    refusal = {"error": {"message": "no", "code": "permission_denied"}}
    answering.answer("GET", "/admin/v1/status", refusal, status=403)
    card = {"id": "sql", "rank": 8, "root": "d1", "description": "Writes SQL."}
    answering.answer("GET", "/v1/models", {"data": [{"id": "tiny"}, card]})
    rows = json.loads(braid("adapters", "list", "--json", *at(answering)).stdout)
    assert [row["name"] for row in rows] == ["sql"]


def test_status_tells_everything(braid: Braid, answering: Any) -> None:
    result = braid("status", *at(answering))
    assert result.exit_code == 0
    for expected in (
        "r1 (draining)",
        "75%",
        "2/16",
        "sql (2 in use)",
        "json (loading, 2 in use)",
        "acme asks most",
        "policy.yaml: replicas.mn: unknown key",
        "copies sql: 1 -> 2",
        "answers",
        "3 hits",
    ):
        assert expected in result.stdout
    for expected in ("no room", "ghost", "has biases"):
        assert expected in result.stderr
    assert json.loads(braid("status", "--json", *at(answering)).stdout) == STATUS


def test_status_names_a_tenants_file_that_is_refused(braid: Braid, answering: Any) -> None:
    refused = {"loaded_at": 1.0, "error": "tenants.yaml: tenants[0].id: wrong"}
    answering.answer("GET", "/admin/v1/status", STATUS | {"tenants_file": refused})
    assert "last good one is in force: tenants.yaml: tenants[0].id: wrong" in (
        braid("status", *at(answering)).stdout
    )


def test_status_when_parts_are_away(braid: Braid, answering: Any) -> None:
    away = {"error": "the controller does not answer: TimeoutError"}
    store = {"breaker": "open", "hits": 3}
    changed = STATUS | {"placement": away, "decision_store": store}
    answering.answer("GET", "/admin/v1/status", changed)
    result = braid("status", *at(answering))
    assert result.exit_code == 0
    assert "the controller does not answer" in result.stderr
    assert "away (breaker open)" in result.stdout


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, "no cluster of the state folder"),
        ({"phase": "stopped", "pid": 1}, "no cluster of the state folder"),
        ({"phase": "failed", "error": "no memory", "pid": 1}, "the last start failed: no memory"),
        ({"phase": "running", "pid": 1}, "the supervisor (process 1) was killed"),
    ],
)
def test_status_of_what_does_not_run(
    braid: Braid, state: Any, written: dict[str, Any], expected: str
) -> None:
    if written:
        state.status.write_text(json.dumps(written))
    result = braid("status")
    assert result.exit_code == 1
    assert expected in result.stderr


def test_status_while_the_node_is_started_again(
    braid: Braid, state: Any, supervisor: Callable[..., Any]
) -> None:
    process = supervisor(phase="restarting")
    written = json.loads(state.status.read_text())
    state.status.write_text(json.dumps(written | {"error": "the node manager ended"}))
    result = braid("status")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"process {process.pid} is restarting after: the node manager ended" in said


def test_status_while_requests_are_answered_without_the_control_service(
    braid: Braid, state: Any, supervisor: Callable[..., Any], answering: Any
) -> None:
    answering.answer("GET", "/admin/v1/status", STATUS)
    supervisor(port=int(answering.url.rsplit(":", 1)[1]), phase="recovering")
    written = json.loads(state.status.read_text())
    incidents = [{"at": 1.0, "what": "the embedded Valkey ended"}]
    state.status.write_text(
        json.dumps(written | {"error": "the control service ended", "incidents": incidents})
    )
    result = braid("status", "--key", "brd_any")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "the control service ended; requests are answered meanwhile" in said
    assert "the embedded Valkey ended" in said
    assert "Replicas" in result.stdout


def test_status_of_what_is_still_starting(braid: Braid, supervisor: Callable[..., Any]) -> None:
    process = supervisor(phase="loading the model")
    result = braid("status")
    assert result.exit_code == 1
    assert f"process {process.pid} is loading the model" in result.stderr
