"""``braid placement``: the map, reasons of one adapter, a pick."""

import json
from collections.abc import Callable
from typing import Any

import pytest

DESIRED = [{"digest": "d1", "adapter": "sql"}, {"digest": "d2", "adapter": "cron"}]
STATE: dict[str, Any] = {
    "replica_reason": "2: work .9 of 1.4 replicas",
    "scaling": {"draining": ["r1"]},
    "replicas": {
        "r0": {
            "suspect": False,
            "desired": DESIRED,
            "resident": [
                {"digest": "d1", "adapter": "sql", "state": "ready"},
                {"digest": "d3", "adapter": "json", "state": "ready"},
            ],
        },
        "r1": {"suspect": True, "desired": [], "resident": []},
    },
    "sets": [
        {
            "adapters": ["sql"],
            "digests": ["d1"],
            "reason": "kept on r0: 2.1 req/s; tenant acme",
        }
    ],
    "unplaced": [{"adapters": ["huge"], "digests": ["d4"], "reason": "no room"}],
    "unknown_pins": [
        'adapters[0].adapter: no adapter "slq"; did you mean "sql"?',
        'adapters[1].adapter: no adapter "acme/legal"',
        'adapters[2].adapter: no adapter matches "acme/tax-*"',
        'adapters[3].adapter: no adapter matches "night-[ab]"',
    ],
    "failures": [
        {
            "adapter": "cron",
            "replica": "r0",
            "attempts": 2,
            "retry_in_s": 9.6,
            "message": "disk is gone",
        }
    ],
    "history": [
        {
            "at": 1_900_000_000.0,
            "kind": "prefetch",
            "adapter": "cron",
            "replica_id": "r0",
            "message": "copies 0 -> 1",
        }
    ],
}

RULES: list[dict[str, Any]] = [
    {"adapter": "slq", "owner": None, "copies": 1},
    {"adapter": "legal", "owner": "acme", "copies": 1},
    {"adapter": "tax-*", "owner": "acme", "copies": 1},
    {"adapter": "night-[ab]", "owner": None, "copies": 1},
    {"adapter": "idle", "owner": None, "copies": {"max": 1}},
    {"adapter": "sql", "owner": None, "copies": "all"},
    {"adapter": "j*n", "owner": "acme", "copies": {"min": 2, "max": 3}},
]


@pytest.fixture
def run(braid: Callable[..., Any], server: Any) -> Callable[..., Any]:
    server.answer("GET", "/admin/v1/placement", STATE)
    server.answer("GET", "/admin/v1/policy", {"effective": {"adapters": RULES}})
    return lambda *words: braid("placement", *words, "--url", server.url, "--key", "k")


def test_the_map_shows_what_is_placed_and_what_is_there(run: Callable[..., Any]) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "2: work .9 of 1.4 replicas" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("r")]
    assert ["r0", "2", "2", "sql", "cron...", "(json)"] in rows
    assert ["r1", "(suspect,", "draining)", "0", "0", "-"] in rows
    assert "huge: no room" in result.stderr
    assert 'no adapter "slq"' in result.stderr
    assert "cron on r0: 2 prefetches failed, the next one in 10 s: disk is gone" in result.stderr


def test_what_is_only_observed_is_told_as_planned(run: Callable[..., Any], server: Any) -> None:
    assert ".mode is" not in run().stderr
    planned = {**STATE["history"][0], "kind": "would_prefetch"}
    modes = {"replicas": "off", "placement": "observe"}
    server.answer("GET", "/admin/v1/placement", {**STATE, "modes": modes, "history": [planned]})
    for words in ((), ("why", "cron")):
        result = run(*words)
        assert "replicas.mode is off: the count is min" in result.stderr
        assert "placement.mode is observe: plans are made and not sent" in result.stderr
    assert "would prefetch cron on r0: copies 0 -> 1" in result.stdout


def test_a_controller_that_is_silent_is_said(run: Callable[..., Any], server: Any) -> None:
    server.answer("GET", "/admin/v1/placement", {"error": "the controller does not answer"})
    for words in ((), ("why", "sql"), ("--json",)):
        result = run(*words)
        assert result.exit_code == 1
        assert "the controller does not answer" in result.stderr
    assert "the controller does not answer" in json.loads(result.stdout)["error"]["message"]


def test_every_reason_of_an_adapter_is_told(run: Callable[..., Any]) -> None:
    sql = run("why", "sql").stdout
    assert "sql: kept on r0: 2.1 req/s; tenant acme" in sql
    assert "r0: placed here, ready" in sql
    cron = run("why", "cron").stdout
    assert "r0: placed here, not there yet" in cron
    assert "disk is gone" in cron
    assert "prefetch cron on r0: copies 0 -> 1" in cron
    found = json.loads(run("why", "json", "--json").stdout)
    assert found["replicas"] == [{"replica": "r0", "state": "brought in by demand, ready"}]
    assert "huge: a promise is not kept: no room" in run("why", "huge").stdout


@pytest.mark.parametrize(
    ("adapter", "rule"),
    [
        ("slq", 0),
        ("sql", 0),
        ("legal", 1),
        ("tax-de", 2),
        ("tax-*", 2),
        ("night-a", 3),
        ("night-[ab]", 3),
    ],
)
def test_a_rule_that_names_no_adapter_is_told(
    run: Callable[..., Any], adapter: str, rule: int
) -> None:
    result = run("why", adapter)
    assert result.exit_code == 0, result.output
    assert STATE["unknown_pins"][rule] in result.stdout
    assert result.stdout.count("adapters[") == 1 + (adapter == "sql")


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("idle", "adapters[4] of the policy: at most 1 of its copies are placed"),
        ("sql", "adapters[5] of the policy: a copy on every replica is placed"),
        (
            "json",
            'adapters[6] of the policy, "j*n" of acme: at least 2 and at most 3 of its copies are',
        ),
    ],
)
def test_a_rule_that_names_the_adapter_is_told(
    run: Callable[..., Any], adapter: str, words: str
) -> None:
    result = run("why", adapter)
    assert result.exit_code == 0, result.output
    assert words in result.stdout
    idle = "no request asks for it, and no replica has it"
    assert (idle in result.stdout) == (adapter == "idle")


@pytest.mark.parametrize("name", ["", " "])
def test_an_adapter_without_a_name_is_refused(run: Callable[..., Any], name: str) -> None:
    result = run("why", name)
    assert result.exit_code == 1
    assert "ADAPTER is empty; name an adapter" in result.stderr


def test_an_adapter_that_is_not_known_is_named_with_the_nearest(run: Callable[..., Any]) -> None:
    result = run("why", "sqll")
    assert result.exit_code == 1
    assert 'did you mean "sql"?' in result.stderr.replace("\n", " ")


def test_a_pick_is_explained(run: Callable[..., Any], server: Any) -> None:
    path = "/admin/v1/pick?adapters=sql%2Cjson&prompt_tokens=200&expected_tokens=64&tenant=acme"
    chosen = {
        "replica": "r0",
        "cost_ms": 12.5,
        "queue_ms": 0.0,
        "load_ms": 2.5,
        "prefill_ms": 10.0,
        "harm_ms": 0.0,
    }
    refused = {"replica": "r1", "refused_by": "draining"}
    body = {"replica": "r0", "decided_by": "cost", "candidates": [chosen, refused]}
    server.answer("GET", path, body)
    result = run("pick", "--tenant", "acme", "--adapters", "sql,json", "--prompt-tokens", 200)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["r0,", "by", "cost"]
    assert ["r0", "12.5", "0", "2.5", "10", "0"] in rows
    assert ["r1", "draining"] in rows
