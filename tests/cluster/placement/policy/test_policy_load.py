"""The operator's file: complete defaults, and mistakes named by their path."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy import AdapterRule, ClusterPolicy
from cluster.placement.policy.advice import advice
from cluster.placement.policy.policy_load import (
    examine_policy,
    load_policy,
    parse_policy,
)


def test_what_is_left_out_has_its_default() -> None:
    assert parse_policy(b"version: 2\n", source="p.yaml") == ClusterPolicy()
    assert parse_policy(b"replicas: {}\nadapters: []\n", source="p.yaml") == ClusterPolicy()
    assert load_policy(None) == ClusterPolicy()


def test_every_section_is_read() -> None:
    policy = parse_policy(
        b"""
tiers: {gold: {ttft: 500ms, itl: 0.08}, standard: {}}
tenants: {acme: gold, "*": standard}
replicas:
  min: 0
  max: 5
  target: 60%
  cold_share: 5%
  up: {stable: 20s, step: 2}
  down: {stable: 10m, step: 2, drain: 1m}
  zero_after: 2h
  hold: 500ms
  schedule: [{days: mon-fri, from: "22:00", to: "06:00", zone: Europe/Berlin, min: 3}]
placement: {churn: 20%, payback: 2m, min_copies: 1, max_copies: 3}
adapters:
  - {adapter: sql, copies: all}
  - {adapter: shell, owner: acme, copies: 2}
picking: {harm: 0.5, bound: 1.5}
""",
        source="p.yaml",
    )
    replicas = policy.replicas
    assert (policy.tiers["gold"].ttft, policy.tiers["gold"].itl) == (0.5, 0.08)
    assert (replicas.target, replicas.cold_share) == (0.6, 0.05)
    assert (replicas.up.stable, replicas.down.stable, replicas.down.drain) == (20.0, 600.0, 60.0)
    assert (replicas.zero_after, replicas.hold) == (7200.0, 0.5)
    assert replicas.schedule[0].from_ == "22:00"
    assert policy.placement.max_copies == 3
    assert (policy.placement.churn, policy.placement.payback) == (0.2, 120.0)
    assert policy.adapters == (
        AdapterRule(adapter="sql", copies="all"),
        AdapterRule(adapter="shell", owner="acme", copies=2),
    )
    assert policy.picking.harm == 0.5
    assert policy.picking.bound == 1.5


def test_a_mistake_is_named_with_file_line_and_path() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(b"# mine\nreplicas:\n  mni: 1\n", source="/etc/policy.yaml")
    assert caught.value.message == (
        '/etc/policy.yaml:3: replicas.mni: unknown key; did you mean "min"?'
    )


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(b"replicas: {mni: 1}\npicking: {bound: x}", source="p")
    assert len(caught.value.message.splitlines()) == 2


def test_an_unknown_key_hides_no_contradiction() -> None:
    text = b"replicas: {min: 8, max: 4, window_s: 3}\ntenants: {a: b}"
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, source="p")
    assert [line.split(":")[2].strip() for line in caught.value.message.splitlines()] == [
        "replicas.window_s",
        "replicas.min",
        "tenants.a",
    ]


def test_what_is_wrong_itself_contradicts_nothing() -> None:
    """A bound that cannot be read may be any, so nothing is said of those that depend on it."""
    text = b"""
replicas: {min: 5, max: many, schedule: [{min: 3}, {days: xyz, max: 1}]}
tiers: {gold: fast}
tenants: {acme: gold, globex: glod}
adapters: [{copies: 7}, {adapter: sql, copies: 7}]
"""
    problems = examine_policy(text).problems
    assert [(problem.line, problem.path) for problem in problems] == [
        (2, "replicas.max"),
        (2, "replicas.schedule[1].days"),
        (2, "replicas.schedule[1].max"),
        (3, "tiers.gold"),
        (4, "tenants.globex"),
        (5, "adapters[0].adapter"),
    ]


def test_times_of_the_day_need_no_quotes() -> None:
    text = b"replicas: {schedule: [{from: 19:30, to: 7:00, min: 1}]}"
    problems = examine_policy(text).problems
    assert [problem.path for problem in problems] == ["replicas.schedule[0].to"], "7:00 is no time"
    text = b"replicas: {schedule: [{from: 19:30, to: 07:00, min: 1}]}"
    assert parse_policy(text, source="p").replicas.schedule[0].from_ == "19:30"


def test_a_rule_may_be_about_many_adapters(build) -> None:
    adapters = [build.info("legal-de"), build.info("legal-fr"), build.info("sql")]
    rules = [
        AdapterRule(adapter="legal-*", copies=2),
        AdapterRule(adapter="legal-de", copies="all"),
        AdapterRule(adapter="x*"),
    ]
    pins = resolve_pins(rules, adapters)
    assert pins.least_copies(3) == {"digest-legal-de": 3, "digest-legal-fr": 2}
    assert pins.least_copies(1) == {"digest-legal-de": 1, "digest-legal-fr": 1}
    assert [pins.replicas_needed(most) for most in (1, 3)] == [1, 2], "all needs none"
    assert pins.unknown == ('adapters[2].adapter: no adapter matches "x*"',)


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("tiers: {standard: {}, gold: {}}", "tiers.gold", "no tenant has this tier"),
        ("tenants: {acme: standard}", "tenants", 'no pattern "*"'),
        (
            "tenants: {'*': standard, acme: standard}",
            "tenants.acme",
            '"*" stands before it and matches the same tenants',
        ),
        ("replicas: {up: {stable: 100ms}}", "replicas.up.stable", "0.1 s is below the 1 s"),
        ("replicas: {down: {stable: 0}}", "replicas.down.stable", "one look decides"),
        ("replicas: {forecast: trend, mode: off}", "replicas.forecast", "replicas.mode is off"),
        ("replicas: {forecast: daily, mode: observe}", "replicas.forecast", "adds no replica"),
    ],
)
def test_what_has_no_effect_is_warned_of(text: str, path: str, words: str) -> None:
    (warning,) = advice(parse_policy(text.encode(), source="p"))
    assert warning.path == path
    assert words in warning.words


@pytest.mark.parametrize(
    ("patterns", "hidden"),
    [
        (["a-*", "*", "a-b"], {"a-b": "a-*"}),
        (["*-b", "a-?", "a-b", "x-c"], {"a-b": "*-b"}),
        (["acme", "acm*", "acme-1"], {"acme-1": "acm*"}),
        (["a[bc]", "ab", "ad", "a[bc]*"], {"ab": "a[bc]"}),
        ([*(f"t{n}" for n in range(5000)), "t1*"], {}),
        ([*(f"t{n}-*" for n in range(5000)), "t9-x"], {"t9-x": "t9-*"}),
    ],
)
def test_a_pattern_behind_a_wider_one_is_warned_of(
    patterns: list[str], hidden: dict[str, str]
) -> None:
    policy = ClusterPolicy(tenants={**dict.fromkeys(patterns, "standard"), "*": "standard"})
    told = {problem.path: problem.words for problem in advice(policy)}
    assert told.keys() == {f"tenants.{pattern}" for pattern in hidden}
    for pattern, first in hidden.items():
        assert f'"{first}" stands before it' in told[f"tenants.{pattern}"]


def test_thousands_of_mistakes_are_all_named() -> None:
    wrong = "\n".join(f"  t{number}: gold" for number in range(1000))
    reading = examine_policy(f"tenants:\n{wrong}\nreplicas: {{{_unknown_keys(1000)}}}".encode())
    assert len(reading.problems) == 2000


def _unknown_keys(count: int) -> str:
    return ", ".join(f"zz{number}: 1" for number in range(count))


def test_the_defaults_need_no_advice() -> None:
    assert list(advice(ClusterPolicy())) == []


def test_a_policy_survives_being_dumped_and_read_again() -> None:
    policy = parse_policy(b"replicas: {schedule: [{from: '07:30', max: 2}]}", source="p")
    assert ClusterPolicy.model_validate(policy.model_dump(by_alias=True)) == policy


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"version: 2\nreplicas: \x00", 2, r"column 11: not valid YAML: the character '\x00' may"),
        (b"# a\n\n# \x1b[31m", 3, r"column 3: not valid YAML: the character '\x1b' may not"),
        ("version: 2\n".encode("utf-16-le"), 1, r"column 2: not valid YAML: the character '\x00'"),
        ("version: 2\n".encode("utf-16"), 1, "UTF-16, not text in UTF-8; save it as UTF-8"),
        (b"version: 2\n# caf\xe9\n", 2, "not text in UTF-8; save it as UTF-8"),
    ],
)
def test_what_is_not_text_is_named_with_its_line(content: bytes, line: int, words: str) -> None:
    (problem,) = examine_policy(content).problems
    assert problem.line == line
    assert problem.words.startswith(words)


def test_a_message_is_one_line_that_a_terminal_shows() -> None:
    content = rb"""{"a\u001b[31m\nb": 1, "a\u001b[31m\nb": 2}"""
    with pytest.raises(ConfigError) as caught:
        parse_policy(content, source="p")
    assert caught.value.message.isprintable()
    assert r"a\x1b[31m\nb" in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_policy(tmp_path / "nowhere.yaml")


def test_the_file_is_laid_over_the_defaults_given() -> None:
    policy = parse_policy(b"replicas: {max: 4}", source="p", defaults=ClusterPolicy.fixed(3))
    assert (policy.replicas.min, policy.replicas.max) == (3, 4)


def test_pins_resolve_by_alias_and_owner(build) -> None:
    adapters = [build.info("sql"), build.info("shell")]
    rules = [
        AdapterRule(adapter="sql", copies="all"),
        AdapterRule(adapter="shell", owner="acme", copies=9),
        AdapterRule(adapter="slq"),
        AdapterRule(adapter="shell", owner="globex"),
    ]
    pins = resolve_pins(rules, adapters)
    assert pins.least_copies(3) == {"digest-sql": 3, "digest-shell": 3}
    assert pins.unknown == (
        'adapters[2].adapter: no adapter "slq"; did you mean "sql"?',
        'adapters[3].adapter: no adapter "globex/shell"',
    )


def test_an_alias_of_two_owners_needs_the_owner(build) -> None:
    adapters = [
        build.info("sql"),
        replace(build.info("sql", owner="globex"), digest="digest-other"),
    ]
    pins = resolve_pins([AdapterRule(adapter="sql")], adapters)
    assert pins.least_copies(2) == {}
    assert pins.replicas_needed(2) == 0
    assert "belongs to acme, globex" in pins.unknown[0]
    pins = resolve_pins([AdapterRule(adapter="sql", owner="globex")], adapters)
    assert pins.least_copies(2) == {"digest-other": 1}
