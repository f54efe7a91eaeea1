"""``braid policy``: findings, what is sent, what people see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli.policies import policy_steps

POLICY, STATUS = "/admin/v1/policy", "/admin/v1/status"
TEXT = "replicas: {max: 4}\n"
SHOWN: dict[str, Any] = {
    "object": "policy",
    "version": 3,
    "sha256": "ab" * 32,
    "author": "root",
    "message": "more room",
    "source": "applied",
    "at": 1_900_000_000.0,
    "text": TEXT,
    "managed_by": None,
    "override": None,
    "defaults": {"replicas": {"min": 1, "max": 1}},
    "effective": {"replicas": {"min": 1, "max": 4}},
    "replicas_now": {"min": 1, "max": 4},
    "following": {"controller": 3, "fronts": {"f1": 3, "f2": 3}},
    "error": None,
}
CLUSTER: dict[str, Any] = {
    "tenants": [{"id": "acme"}],
    "adapters": [{"digest": "d1", "name": "sql", "owner": None, "bytes": 100}],
    "replicas": [{"slots_total": 4, "adapter_bytes_limit": 1000}] * 3,
}


@pytest.fixture
def run(braid: Callable[..., Any], server: Any) -> Callable[..., Any]:
    server.answer("GET", POLICY, SHOWN)
    server.answer("GET", STATUS, CLUSTER)
    return lambda *words, **more: braid("policy", *words, "--url", server.url, "--key", "k", **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "mine.yaml"
    found.write_text("replicas: {max: 2}\n")
    return found


def sent(server: Any) -> list[Any]:
    return [body for method, path, _, body in server.asked if method == "PUT"]


def test_a_right_file_needs_no_cluster(braid: Callable[..., Any], path: Path) -> None:
    result = braid("policy", "check", path)
    assert result.exit_code == 0, result.output
    assert f"{path}: right, no warnings" in result.stdout


def test_every_mistake_is_one_line_and_the_status_is_1(
    braid: Callable[..., Any], path: Path
) -> None:
    path.write_text("replicas:\n  mni: 1\npicking: {bound: 0}\n")
    result = braid("policy", "check", path)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f'{path}:2: replicas.mni: unknown key; did you mean "min"?',
        f"{path}:3: picking.bound: must be at least 1, not 0",
    ]
    found = json.loads(braid("policy", "check", path, "--json").stdout)
    assert [problem["line"] for problem in found["problems"]] == [2, 3]
    assert found["warnings"] == []


def test_a_file_is_compared_with_a_cluster_that_runs(run: Callable[..., Any], path: Path) -> None:
    path.write_text("replicas: {max: 2}\ntenants: {acmee: standard, '*': standard}\n")
    result = run("check", path)
    assert result.exit_code == 0
    assert 'warning: tenants.acmee: no such tenant; did you mean "acme"?' in result.stdout
    assert "right, 1 warning" in result.stdout


def test_a_file_is_compared_with_a_saved_description(
    braid: Callable[..., Any], path: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "status.json"
    adapters = [{**CLUSTER["adapters"][0], "digest": f"d{n}", "name": f"a{n}"} for n in range(5)]
    saved.write_text(json.dumps({**CLUSTER, "adapters": adapters}))
    path.write_text("adapters: [{adapter: 'a*', copies: all}]")
    result = braid("policy", "check", path, "--against", saved)
    assert result.exit_code == 1
    assert "adapters[0].copies: 5 adapters on every replica need as many slots" in result.stdout


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ([], "document: "),
        ({}, "tenants: Field required; adapters: Field required; replicas: Field required"),
        ({**CLUSTER, "replicas": {}}, "replicas: "),
        ({**CLUSTER, "replicas": [3]}, "replicas[0]: "),
        ({**CLUSTER, "placement": 5}, "placement: "),
    ],
)
def test_what_is_no_description_of_a_cluster_is_refused(
    braid: Callable[..., Any], path: Path, tmp_path: Path, saved: Any, words: str
) -> None:
    file = tmp_path / "status.json"
    file.write_text(json.dumps(saved))
    result = braid("policy", "check", path, "--against", file)
    assert result.exit_code == 1
    told = f"--against {file}: not an answer of GET /admin/v1/status: {words}"
    assert told in result.stderr.replace("\n", "")
    assert "Error(" not in result.stderr


def test_a_file_that_is_not_utf8_is_named_with_its_line(
    braid: Callable[..., Any], path: Path
) -> None:
    path.write_bytes(b"version: 2\n# caf\xe9\n")
    result = braid("policy", "check", path)
    assert result.exit_code == 1
    assert f"{path}:2: not text in UTF-8" in result.stderr.replace("\n", "")


def test_control_characters_do_not_reach_the_terminal(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    path.write_text(r'{"a\u001b[31m": 1}')
    assert r"a\x1b[31m: unknown key" in run("check", path).stdout
    shown = {**SHOWN, "message": "x\x1b[31m\ny"}
    server.answer("GET", POLICY, shown)
    server.answer("GET", f"{POLICY}/history", {"data": [shown]})
    assert r"x\x1b[31m\ny" in run("history").stdout
    assert r"x\x1b[31m" in run("show").stdout


def test_the_text_is_shown_as_it_was_written(run: Callable[..., Any]) -> None:
    result = run("show")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("# version 3, root, 2030-03-17 ")
    assert lines[0].endswith(": more room")
    assert lines[1:] == [
        "# replicas now: 1 to 4",
        "# followed by the controller and 2 fronts",
        "replicas: {max: 4}",
    ]
    assert "replicas:\n  min: 1\n  max: 4" in run("show", "--effective").stdout


def test_who_is_behind_and_what_is_overridden_is_told(run: Callable[..., Any], server: Any) -> None:
    server.answer(
        "GET",
        POLICY,
        {
            **SHOWN,
            "managed_by": "/etc/p.yaml",
            "override": {"left_s": 3700.0, "falls_back_to": 2},
            "following": {"controller": 2, "fronts": {"f1": 3, "f2": 1}},
            "error": "policy.yaml: broken",
        },
    )
    result = run("show")
    assert "# managed by /etc/p.yaml" in result.stdout
    assert "overrides the file for another 1 h 1 min, then version 2" in result.stdout
    assert "# not yet followed by all; the controller: 2; front f2: 1" in result.stdout
    assert "policy.yaml: broken" in result.stderr


def test_another_version_is_shown_with_its_defaults(run: Callable[..., Any], server: Any) -> None:
    server.answer("GET", f"{POLICY}/versions/1", {**SHOWN, "version": 1, "text": "picking: {}"})
    result = run("show", "--version", 1, "--effective", "--json")
    shown = json.loads(result.stdout)
    assert shown["effective"]["replicas"]["max"] == 1, "the cluster's default"


def test_an_earlier_version_without_a_field_is_shown(run: Callable[..., Any], server: Any) -> None:
    kept = {name: SHOWN[name] for name in ("sha256", "author", "message", "source", "at")}
    server.answer("GET", f"{POLICY}/versions/1", {**kept, "version": 1, "text": "version: 2\n"})
    result = run("show", "--version", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(": more room\nversion: 2\n")
    shown = run("show", "--version", 1, "--effective").stdout
    assert "replicas:\n  mode: 'on'\n  min: 1\n  max: 1\n" in shown


def test_a_version_that_an_earlier_release_kept_empty_is_shown(
    run: Callable[..., Any], server: Any
) -> None:
    server.answer("GET", f"{POLICY}/versions/1", {**SHOWN, "version": 1, "text": "\n"})
    result = run("show", "--version", 1)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout) is None, "nothing but comments"


def test_an_empty_file_is_neither_right_nor_sent(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    path.write_text("")
    result = run("check", path)
    assert (result.exit_code, result.stdout) == (1, f"{path}: empty; begin with version: 2\n")
    for words in (("diff", path), ("apply", path, "--yes")):
        result = run(*words)
        assert result.exit_code == 1
        assert "empty; begin with version: 2" in result.stderr
    assert sent(server) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_what_is_shown_is_a_document_whatever_the_message(
    run: Callable[..., Any], server: Any, end: str
) -> None:
    server.answer("GET", POLICY, {**SHOWN, "message": f"more room{end}replicas: {{max: 9}}{end}x"})
    result = run("show")
    assert yaml.safe_load(result.stdout) == {"replicas": {"max": 4}}


def test_changes_are_told_with_what_follows(run: Callable[..., Any], path: Path) -> None:
    result = run("diff", path)
    assert result.exit_code == 0, result.output
    assert "replicas.max 4 -> 2" in result.stdout
    assert "3 run now and at most 2 may: one will be drained" in result.stdout
    found = json.loads(run("diff", path, "--json").stdout)
    assert found["changes"] == [{"path": "replicas.max", "before": 4, "after": 2}]


def test_a_replica_that_starts_is_counted(run: Callable[..., Any], server: Any, path: Path) -> None:
    server.answer("GET", STATUS, {**CLUSTER, "placement": {"replica_count": 4}})
    told = run("diff", path).stdout
    assert "3 run now and one more starts, at most 2 may: 2 will be drained" in told


def test_versions_are_compared_by_number(run: Callable[..., Any], server: Any) -> None:
    server.answer("GET", f"{POLICY}/versions/1", {**SHOWN, "version": 1, "text": "replicas: {}"})
    result = run("diff", "3", "1")
    assert result.exit_code == 1, "version 3 is not known to this server"
    server.answer("GET", f"{POLICY}/versions/3", SHOWN)
    assert "replicas.max 1 -> 4" in run("diff", "3", "1").stdout
    assert "replicas.max 4 -> 1" in run("diff", "0").stdout, "0 is the defaults"


def test_a_policy_is_applied_after_a_question(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    applied = {"version": 3, "changed": True, "warnings": []}
    server.answer("PUT", POLICY, applied)
    assert run("apply", path, "-m", "less", input="n\n").exit_code == 1
    assert sent(server) == []
    result = run("apply", path, "-m", "less", input="y\n")
    assert result.exit_code == 0, result.output
    assert "one will be drained" in result.stdout
    assert "version 3 in force" in result.stdout
    assert sent(server) == [
        {"text": "replicas: {max: 2}\n", "message": "less", "expected": 3, "override_s": None}
    ]
    result = run("apply", path, "--yes", "--json")
    assert json.loads(result.stdout) == {**applied, "followed": True}


@pytest.mark.parametrize("hour", ["1h", "3600", "3600.0", "60m"])
def test_a_file_is_overridden_for_a_time(
    run: Callable[..., Any], server: Any, path: Path, hour: str
) -> None:
    server.answer("GET", POLICY, {**SHOWN, "managed_by": "/etc/p.yaml"})
    server.answer("PUT", POLICY, {"version": 3, "changed": True, "warnings": []})
    assert run("apply", path, "--yes", "--override", hour).exit_code == 0
    assert sent(server)[-1]["override_s"] == 3600.0


def test_what_a_file_forbids_is_said_before_the_question(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    result = run("apply", path, "--override", "1h")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no file manages the policy; leave out --override" in result.stderr
    server.answer("GET", POLICY, {**SHOWN, "managed_by": "/etc/p.yaml"})
    result = run("apply", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "managed by /etc/p.yaml; change that file" in result.stderr
    assert "--override 1h" in result.stderr
    assert sent(server) == []


def test_a_text_in_force_that_cannot_be_read_is_replaced(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    problem = "policy version 3:1: pins: is gone; name it adapters"
    server.answer("GET", POLICY, {**SHOWN, "text": "pins: []", "error": problem})
    server.answer("PUT", POLICY, {"version": 3, "changed": True, "warnings": []})
    for words in (("diff", path), ("apply", path, "--yes")):
        result = run(*words)
        assert result.exit_code == 0, result.output
        assert problem in result.stderr
        assert "replicas.max 4 -> 2" in result.stdout, "compared with what the server goes by"
    assert len(sent(server)) == 1


def test_a_text_that_is_lost_is_replaced(run: Callable[..., Any], server: Any, path: Path) -> None:
    lost = dict.fromkeys(("sha256", "author", "message", "source", "at"))
    problem = "version 5 has no text in Redis; apply a policy again"
    server.answer("GET", POLICY, {**SHOWN, **lost, "version": 5, "text": "", "error": problem})
    server.answer("PUT", POLICY, {"version": 6, "changed": True, "warnings": []})
    result = run("show")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("# version 5; its text is lost\n")
    assert problem in result.stderr
    server.answer_first("GET", POLICY, (200, {}, {**SHOWN, **lost, "version": 5, "text": ""}))
    server.answer("GET", POLICY, {**SHOWN, "following": {"controller": 6, "fronts": {}}})
    assert run("apply", path, "--yes").exit_code == 0
    assert sent(server)[-1]["expected"] == 5


def test_a_server_of_another_release_is_named(run: Callable[..., Any], server: Any) -> None:
    server.answer("GET", POLICY, {**SHOWN, "effective": {"replicas": {"news": 1}}})
    result = run("diff", "0")
    assert result.exit_code == 1
    assert "the server's policy is of another release: replicas.news" in result.stderr


def test_a_broken_policy_is_not_sent(run: Callable[..., Any], server: Any, path: Path) -> None:
    path.write_text("replicas: {mni: 1}")
    result = run("apply", path, "--yes")
    assert result.exit_code == 1
    assert f"{path}:1: replicas.mni" in result.stderr.replace("\n", "")
    path.write_text(TEXT)
    result = run("apply", path, "--yes", "--override", "soon")
    assert result.exit_code == 1
    assert "--override: must be seconds" in result.stderr
    for seconds in ("0s", "8d"):
        result = run("apply", path, "--yes", "--override", seconds)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"--override: must be 1s to 7d, not {seconds}" in result.stderr
    assert sent(server) == []


def test_a_conflict_says_what_to_do(run: Callable[..., Any], server: Any, path: Path) -> None:
    problem = {"message": "version 4 is in force, not 3", "code": "policy_conflict"}
    server.answer("PUT", POLICY, {"error": problem}, status=409)
    result = run("apply", path, "--yes")
    assert result.exit_code == 1
    assert "not 3; `braid policy show` tells what is in force" in result.stderr
    assert "--override" not in result.stderr


def test_requests_that_are_used_up_are_waited_for(
    run: Callable[..., Any], server: Any, path: Path
) -> None:
    server.answer("PUT", POLICY, {"version": 3, "changed": True, "warnings": []})
    refused = {"error": {"message": "too many", "code": "rate_limit_exceeded"}}
    server.answer_first(
        "GET", POLICY, (200, {}, SHOWN), *[(429, {"retry-after": "0"}, refused)] * 3
    )
    result = run("apply", path, "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["followed"] is True


def test_a_version_that_nobody_follows_is_asked_about_a_few_times(
    run: Callable[..., Any], server: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = policy_steps.PAUSES_S
    assert list(pauses) == sorted(pauses)
    assert (len(pauses), sum(pauses)) == (10, 30.0)
    monkeypatch.setattr(policy_steps, "PAUSES_S", (0.0,) * len(pauses))
    server.answer("PUT", POLICY, {"version": 4, "changed": True, "warnings": []})
    result = run("apply", path, "--yes")
    assert result.exit_code == 0, result.output
    assert "not everybody goes by it" in result.stderr
    assert len(server.asked) == 2 + 1 + 1 + len(pauses), "policy, status, apply, looks"


def test_an_earlier_version_is_applied_again(run: Callable[..., Any], server: Any) -> None:
    server.answer("GET", f"{POLICY}/versions/1", {**SHOWN, "version": 1, "text": "replicas: {}"})
    server.answer("PUT", POLICY, {"version": 3, "changed": True, "warnings": []})
    result = run("rollback", 1, "-m", "too dear", "--yes")
    assert result.exit_code == 0, result.output
    (body,) = sent(server)
    assert (body["text"], body["message"]) == ("replicas: {}", "back to version 1: too dear")


def test_the_history_marks_what_is_in_force(run: Callable[..., Any], server: Any) -> None:
    versions = [{**SHOWN, "version": 3}, {**SHOWN, "version": 2, "author": "file"}]
    server.answer("GET", f"{POLICY}/history", {"data": versions})
    lines = run("history").stdout.splitlines()
    assert "3 (in force)" in lines[1]
    assert "file" in lines[2]
    assert "(in force)" not in lines[2]
