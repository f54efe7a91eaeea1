"""``braid adapters add`` and the commands that change adapters: what is sent, what people see."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUTES = "/admin/v1/adapters"
A, B = "a" * 64, "b" * 64


def card(digest: str = A, **fields: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "owner": "shared",
        "state": "serving",
        "version": digest,
        "rank": 4,
        "pinned": False,
        "source": "upload",
        "history": [{"version": digest, "at": 1.0, "by": "admin", "rollback": False}],
        "residency": [{"replica": "r0", "tier": "device", "leases": 2}],
        **fields,
    }


@pytest.fixture
def run(braid: Callable[..., Any], server: Any) -> Callable[..., Any]:
    listed = {"data": [card(A)], "other_versions": [{"version": B}]}
    server.answer("GET", ROUTES, listed)
    return lambda *words: braid("adapters", *words, "--url", server.url, "--key", "k")


def asked(server: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, body) for method, path, _, body in server.asked]


def test_a_folder_here_is_uploaded(
    run: Callable[..., Any], server: Any, adapters: Callable[..., Path]
) -> None:
    folder = adapters("one") / "one"
    (folder / "README.md").write_text("not sent")
    path = f"{ROUTES}?name=mine&replace=false&grants=acme%2Cglobex"
    server.answer("POST", path, card(), status=201)
    result = run("add", "mine", str(folder), "--grant", "acme", "--grant", "globex")
    assert result.exit_code == 0, result.output
    assert A in result.stdout
    assert "braid router add" not in result.stderr
    ((_, _, body),) = asked(server)
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert sorted(tar.getnames()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_notes_of_an_addition_are_told_and_what_must_agree_is_sent(
    run: Callable[..., Any], server: Any, adapters: Callable[..., Path]
) -> None:
    path = f"{ROUTES}?name=mine&replace=false&base_check=shapes"
    noted = card(notes=["chat template: its own"], chat_template="own")
    server.answer("POST", path, noted, status=201)
    result = run("add", "mine", str(adapters("one") / "one"), "--base-check", "shapes")
    assert result.exit_code == 0, result.output
    assert "chat template: its own" in result.stderr
    server.answer("GET", f"{ROUTES}/mine", noted)
    shown = run("show", "mine").stdout
    assert "note: chat template: its own" in shown
    source = {"folder": "x"}
    server.answer("POST", ROUTES, card(), status=201)
    run("add", "mine", "x", "--on-server", "--base-check", "name")
    sent = asked(server)[-1][2]
    assert sent == {"name": "mine", "replace": False, "base_check": "name", "source": source}


def test_what_cannot_be_sent_is_said_by_its_format(
    run: Callable[..., Any], server: Any, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters.safetensors").write_bytes(b"x")
    result = run("add", "mine", str(tmp_path))
    assert result.exit_code != 0
    assert "mlx's format" in " ".join(result.stderr.split())
    assert asked(server) == []


def test_routers_of_its_modules_are_pointed_out(
    run: Callable[..., Any], server: Any, adapters: Callable[..., Path]
) -> None:
    folder = adapters("one") / "one"
    (folder / "router.json").write_text("{}")
    server.answer("POST", f"{ROUTES}?name=mine&replace=false", card(), status=201)
    result = run("add", "mine", str(folder))
    assert f"braid router add mine {folder}" in result.stderr


def test_an_archive_is_sent_as_it_is(run: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"any bytes")
    path = f"{ROUTES}?name=mine&replace=true&tenant=acme&expected={B}"
    server.answer("POST", path, card(), status=201)
    words = ("--tenant", "acme", "--replace", "--expect", "bb", "--json")
    result = run("add", "mine", str(archive), *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["version"] == A
    assert asked(server)[-1][2] == b"any bytes"


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (("hub:org/repo@v1",), {"hub": "org/repo", "revision": "v1"}),
        (("hub:org/repo",), {"hub": "org/repo"}),
        (("s3://bucket/x",), {"url": "s3://bucket/x"}),
        (("team/x", "--on-server"), {"folder": "team/x"}),
    ],
)
def test_other_sources_are_named(
    run: Callable[..., Any], server: Any, words: tuple[str, ...], source: dict[str, str]
) -> None:
    server.answer("POST", ROUTES, card(), status=201)
    result = run("add", "mine", *words)
    assert result.exit_code == 0, result.output
    assert asked(server) == [("POST", ROUTES, {"name": "mine", "replace": False, "source": source})]


def test_a_path_that_is_not_there(run: Callable[..., Any], server: Any, tmp_path: Path) -> None:
    result = run("add", "mine", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "hub:ORG/NAME" in " ".join(result.stderr.split())
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    result = run("add", "mine", str(tmp_path))
    assert result.exit_code == 1
    assert "pickle" in result.stderr
    assert server.asked == []


def test_switching_takes_the_beginning_of_a_digest(run: Callable[..., Any], server: Any) -> None:
    server.answer("POST", f"{ROUTES}/mine/alias", card(B))
    assert run("alias", "mine", "bbb", "--expect", "aaa").exit_code == 0
    assert asked(server)[-1][2] == {"version": B, "expected": A}
    unknown = run("alias", "mine", "c")
    assert unknown.exit_code == 1
    assert "c: no version begins so" in unknown.stderr
    assert "give more" not in unknown.stderr
    server.answer("POST", f"{ROUTES}/mine/rollback", card(A))
    assert A in run("rollback", "mine", "--tenant", "acme").stdout
    assert asked(server)[-1][2] == {"tenant": "acme"}


def test_show(run: Callable[..., Any], server: Any) -> None:
    adding = [{"version": B, "answers": [{}]}]
    server.answer("GET", f"{ROUTES}/mine?tenant=acme", card(adding=adding))
    shown = run("show", "mine", "--tenant", "acme").stdout
    for words in ("serving", "r0: device, 2 leases", f"being added: {B}, 1 answers", "by admin"):
        assert words in shown


def test_pins(run: Callable[..., Any], server: Any) -> None:
    server.answer("POST", f"{ROUTES}/mine/pin", card())
    assert "mine pinned" in run("pin", "mine").stdout
    assert "mine unpinned" in run("unpin", "mine").stdout
    assert [body for _, _, body in asked(server)] == [{"pinned": True}, {"pinned": False}]


def test_removing_says_what_is_freed_and_what_is_not(run: Callable[..., Any], server: Any) -> None:
    waiting = [{"version": B, "residency": [{"leases": 1}, {"leases": 2}]}]
    answer = {"name": "mine", "freed": [A], "waiting": waiting}
    server.answer("DELETE", f"{ROUTES}/mine?force=true", answer, status=202)
    result = run("rm", "mine", "--force")
    assert result.exit_code == 0, result.output
    assert f"freed {A}" in result.stdout
    assert "3 leases" in " ".join(result.stderr.split())


def test_a_refusal_is_one_message(run: Callable[..., Any], server: Any) -> None:
    refusal = {"error": {"code": "adapter_in_use", "message": "the adapter 'mine' is pinned"}}
    server.answer("DELETE", f"{ROUTES}/mine", refusal, status=409)
    result = run("rm", "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    words = " ".join(result.stderr.split())
    assert "'mine' is pinned; that is --force here (adapter_in_use)" in words
    server.answer("POST", f"{ROUTES}/{A}/verify", {"version": A, "intact": True})
    assert f"intact: {A}" in run("verify", A).stdout


def missing(server: Any, method: str, path: str) -> None:
    refusal = {"error": {"code": "adapter_not_found", "message": "there is no such adapter"}}
    server.answer(method, path, refusal, status=404)


@pytest.mark.parametrize(("beginning", "digest"), [("aaaa", A), ("b" * 12, B)])
@pytest.mark.parametrize(
    ("verb", "method", "action"),
    [("rm", "DELETE", ""), ("verify", "POST", "/verify"), ("show", "GET", "")],
)
def test_the_beginning_of_a_digest_stands_for_it(
    run: Callable[..., Any],
    server: Any,
    verb: str,
    method: str,
    action: str,
    beginning: str,
    digest: str,
) -> None:
    missing(server, method, f"{ROUTES}/{beginning}{action}")
    answer = card(digest, name=digest, freed=[digest], waiting=[])
    server.answer(method, f"{ROUTES}/{digest}{action}", answer)
    result = run(verb, beginning)
    assert result.exit_code == 0, result.output
    assert digest in result.stdout
    assert asked(server)[-1][:2] == (method, f"{ROUTES}/{digest}{action}")


def test_a_name_comes_before_a_digest_that_begins_so(run: Callable[..., Any], server: Any) -> None:
    answer = {"name": "aaaa", "freed": [], "waiting": []}
    server.answer("DELETE", f"{ROUTES}/aaaa", answer)
    assert "aaaa removed" in run("rm", "aaaa").stdout
    assert [path for _, path, _ in asked(server)] == [f"{ROUTES}/aaaa"]


@pytest.mark.parametrize("wanted", ["aaa", "cccc", "aaaa-lora"], ids=["short", "none", "no digest"])
def test_what_is_neither_name_nor_digest(run: Callable[..., Any], server: Any, wanted: str) -> None:
    missing(server, "DELETE", f"{ROUTES}/{wanted}")
    result = run("rm", wanted)
    assert result.exit_code == 1
    assert "there is no such adapter" in result.stderr
    assert "(adapter_not_found)" in result.stderr
    assert [method for method, _, _ in asked(server) if method == "DELETE"] == ["DELETE"]


def test_a_name_that_must_point_somewhere_is_no_digest(
    run: Callable[..., Any], server: Any
) -> None:
    missing(server, "DELETE", f"{ROUTES}/aaaa?expected={A}")
    assert run("rm", "aaaa", "--expect", "aaaa").exit_code == 1
    assert [method for method, _, _ in asked(server) if method == "DELETE"] == ["DELETE"]


def test_several_versions_that_begin_so_are_counted(run: Callable[..., Any], server: Any) -> None:
    others = [{"version": f"beef{digit}" + "0" * 59} for digit in "12"]
    server.answer("GET", ROUTES, {"data": [card(A)], "other_versions": others})
    missing(server, "POST", f"{ROUTES}/beef/verify")
    for words in (("verify", "beef"), ("alias", "mine", "beef")):
        result = run(*words)
        assert result.exit_code == 1
        assert "beef: 2 versions begin so; give more digits" in result.stderr


def test_a_name_that_exists_and_what_to_do_about_it(run: Callable[..., Any], server: Any) -> None:
    error = {
        "code": "adapter_conflict",
        "message": "'mine' exists already; to replace it, send that as the expected version",
        "param": "expected",
    }
    server.answer("POST", ROUTES, {"error": error}, status=409)
    result = run("add", "mine", "hub:org/repo")
    assert result.exit_code == 1
    words = " ".join(result.stderr.split())
    assert "that is --expect DIGEST here, or --replace (adapter_conflict)" in words
    expecting = " ".join(run("add", "mine", "hub:org/repo", "--expect", "aaaa").stderr.split())
    assert "--replace" not in expecting
    assert "(adapter_conflict)" in expecting


def test_an_error_for_programs_has_the_servers_fields(run: Callable[..., Any], server: Any) -> None:
    error = {"code": "adapter_conflict", "message": "no", "param": "name", "type": "of_409"}
    server.answer("POST", f"{ROUTES}/mine/rollback", {"error": error}, status=409)
    result = run("rollback", "mine", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": error}
    assert "error: no (adapter_conflict)" in result.stderr
    assert run("rollback", "mine").stdout == ""


def test_an_error_that_no_server_said_for_programs(run: Callable[..., Any], server: Any) -> None:
    result = run("alias", "mine", "c", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["param"]) == ("config_invalid", None)
    assert error["message"] in result.stderr
    assert "(config_invalid)" not in result.stderr
