"""Server, key, and errors of the command line's client."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from cluster.errors import (
    AuthenticationFailed,
    BraidError,
    ConfigError,
    EngineError,
    ModelNotFound,
    QuotaExceeded,
    ReplicaLost,
)
from cluster.tenancy.keys import write_keys
from deployments.cli.toolkit.client import BraidClient, NoServer, ServerTarget, find_target
from deployments.cli.toolkit.refusal import code_of, error_body
from deployments.local.local_state import StateDir

FOREIGN = "http://elsewhere:8000"


def client(respond: Callable[[httpx2.Request], httpx2.Response]) -> BraidClient:
    return BraidClient(ServerTarget("http://server:1", "key"), httpx2.MockTransport(respond))


def refusing(status: int, code: str) -> BraidClient:
    body = {"error": {"message": "the server's words", "code": code}}
    return client(lambda _: httpx2.Response(status, json=body))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", AuthenticationFailed),
        (404, "model_not_found", ModelNotFound),
        (429, "rate_limit_exceeded", QuotaExceeded),
        (503, "replica_lost", ReplicaLost),
        (500, "of_a_newer_server", EngineError),
    ],
)
def test_refusals_become_our_errors(status: int, code: str, kind: type[Exception]) -> None:
    with refusing(status, code) as server, pytest.raises(kind, match="the server's words"):
        server.chat({})
    with (
        refusing(status, code) as server,
        pytest.raises(kind, match="the server's words"),
        server.stream_chat({}),
    ):
        pass


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "of_a_newer_server", "not_found"])
def test_a_refusal_keeps_its_code(code: str) -> None:
    with refusing(429, code) as server, pytest.raises(BraidError) as error:
        server.get("/v1/models")
    assert code_of(error.value) == code
    assert error.value.message == "the server's words"
    assert error_body(error.value)["error"]["code"] == code


def test_a_refused_key_says_what_to_do() -> None:
    with refusing(401, "invalid_api_key") as server, pytest.raises(AuthenticationFailed) as error:
        server.get("/v1/models")
    assert "--key" in error.value.message


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"[]", b""])
@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_not_braids(content: bytes, status: int) -> None:
    with (
        client(lambda _: httpx2.Response(status, content=content)) as server,
        pytest.raises(NoServer, match="is that a Braid server"),
    ):
        server.get("/v1/models")


@pytest.mark.parametrize(
    "error",
    [httpx2.ConnectError("refused"), httpx2.ReadTimeout("late"), httpx2.RemoteProtocolError("cut")],
    ids=lambda error: type(error).__name__,
)
def test_network_faults_name_the_server(error: Exception) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error

    with client(fail) as server, pytest.raises(NoServer, match="http://server:1"):
        server.get("/v1/models")


@pytest.mark.parametrize("url", ["server:8000", "http://", "ftp://server"])
def test_a_malformed_url_is_one_message(url: str) -> None:
    with BraidClient(ServerTarget(url, "key")) as server, pytest.raises((NoServer, ConfigError)):
        server.get("/v1/models")


def events(*items: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in items)


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


def test_a_stream_is_headers_and_then_text() -> None:
    content = b": keep-alive\n\n" + events(
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        piece("Zwei "),
        piece("Öfen"),
        {"choices": [], "usage": {}},
    )
    headers = {"x-braid-decision": "dec_1", "x-braid-decision-source": "stored"}
    asked: list[dict[str, Any]] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return httpx2.Response(200, headers=headers, content=content + b"data: [DONE]\n\n")

    with client(respond) as server, server.stream_chat({"model": "auto"}) as stream:
        assert stream.headers.decision_id == "dec_1"
        assert stream.headers.source == "stored"
        assert list(stream.pieces) == ["Zwei ", "Öfen"]
    assert asked == [{"model": "auto", "stream": True}]


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    failure = {"error": {"message": "gone", "code": "replica_lost"}}
    content = events(piece("one"), failure)
    with (
        client(lambda _: httpx2.Response(200, content=content)) as server,
        server.stream_chat({}) as stream,
    ):
        assert next(stream.pieces) == "one"
        with pytest.raises(ReplicaLost, match="gone"):
            next(stream.pieces)


@pytest.mark.parametrize("code", ["decision_not_found", "store_unavailable"])
def test_a_decision_that_is_not_kept_is_none(code: str) -> None:
    with refusing(404, code) as server:
        assert server.decision("dec_1") is None


def test_without_a_cluster_the_way_out_is_named(state: StateDir) -> None:
    with pytest.raises(NoServer, match="braid up"):
        find_target(None, None, None, "acme")


def test_which_key_counts(
    state: StateDir, supervisor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor(port=8123)
    write_keys(state.keys, {"acme": "of acme", "globex": "of globex"})
    own = "http://127.0.0.1:8123"
    assert find_target(None, None, None, "acme") == ServerTarget(own, "of acme")
    assert find_target(own + "/", None, None, "acme") == ServerTarget(own, "of acme")
    assert find_target(None, None, "globex", "acme").key == "of globex"
    with pytest.raises(ConfigError, match="there are: acme, globex"):
        find_target(None, None, "nobody", "acme")
    monkeypatch.setenv("BRAID_API_KEY", "of the environment")
    assert find_target(None, None, None, "acme").key == "of the environment"
    assert find_target(None, None, "globex", "acme").key == "of globex"
    assert find_target(None, "given", "globex", "acme").key == "given"


def test_local_keys_are_not_sent_to_other_servers_unasked(state: StateDir) -> None:
    write_keys(state.keys, {"acme": "of acme"})
    with pytest.raises(ConfigError, match="which key is for http://elsewhere"):
        find_target(FOREIGN, None, None, "acme")
    assert find_target(FOREIGN, None, "acme", "acme").key == "of acme"


def test_keys_that_others_can_read_are_refused(state: StateDir) -> None:
    write_keys(state.keys, {"acme": "of acme"})
    state.keys.chmod(0o644)
    with pytest.raises(ConfigError, match="expected mode 0600, found 0644"):
        find_target(FOREIGN, None, "acme", "acme")


def test_an_unknown_model_leads_to_routers_and_rights_too() -> None:
    with refusing(404, "model_not_found") as asked, pytest.raises(ModelNotFound) as refusal:
        asked.get("/v1/models/x")
    assert "`braid router list`" in refusal.value.message
    assert "--grant" in refusal.value.message
