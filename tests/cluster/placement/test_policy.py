"""The operator's file: complete defaults, and mistakes named by their path."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy import ClusterPolicy, Pin
from cluster.placement.policy_load import PolicyFile, load_policy, parse_policy


def test_an_empty_file_is_the_defaults() -> None:
    assert parse_policy(b"", source="p.yaml") == ClusterPolicy()
    assert parse_policy(b"replicas:\npins:\n", source="p.yaml") == ClusterPolicy()


def test_every_section_is_read() -> None:
    policy = parse_policy(
        b"""
replicas: {min: 2, max: 5, target_running_per_replica: 3, upscale_delay_s: 1,
           downscale_delay_s: 9, tolerance: 0.2}
placement: {max_moves_per_tick: 2, min_copies: 1, max_copies: 3, cooldown_s: 7}
pins:
  - {adapter: sql, copies: all}
  - {adapter: shell, owner: acme, copies: 2}
picking: {harm: 0.5, bound: 1.5}
""",
        source="p.yaml",
    )
    assert (policy.replicas.min, policy.replicas.max) == (2, 5)
    assert policy.placement.max_copies == 3
    assert policy.pins == (
        Pin(adapter="sql", copies="all"),
        Pin(adapter="shell", owner="acme", copies=2),
    )
    assert policy.picking.harm == 0.5
    assert policy.picking.bound == 1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas: {mni: 1}", 'replicas.mni: unknown key; did you mean "min"?'),
        ("replcias: {min: 1}", 'replcias: unknown key; did you mean "replicas"?'),
        (
            "picking: {bond: 1}",
            'picking.bond: unknown key; did you mean "bound"?',
        ),
        (
            "pins: [{adapter: sql}, {adaptor: x}]",
            'pins[1].adaptor: unknown key; did you mean "adapter"?',
        ),
        ("replicas: {min: 5, max: 2}", "replicas: min (5) is above max (2)"),
        ("replicas: {min: two}", "replicas.min: Input should be a valid integer"),
        ("replicas: {min: two}", "not 'two'"),
        ("replicas: 3", "replicas: Input should be a valid dictionary"),
        (
            "placement: {min_copies: 4, max_copies: 2}",
            "placement: min_copies (4) is above max_copies (2)",
        ),
        ("picking: {bound: 0.5}", "picking.bound: Input should be greater than"),
        ("pins: [{copies: 1}]", "pins[0].adapter: Field required"),
        ("pins: [{adapter: a, copies: none}]", "pins[0].copies: must be a whole number"),
        ("pins: [{adapter: a, copies: 0}]", "pins[0].copies: must be a whole number"),
        ("pins: [{adapter: a, copies: true}]", "pins[0].copies: must be a whole number"),
        ("pins: [{adapter: a, copies: 9}]", "pins[0].copies: 9 copies need as many replicas"),
        ("pins: [{adapter: a}, {adapter: a}]", 'pins[1].adapter: "a" is pinned already by pins[0]'),
        ("replicas: {min: 1", ":1:"),
        ("replicas: {min: 1, min: 2}", 'key "min" is written twice'),
        ("- a", "expected a mapping of sections, found a list"),
    ],
)
def test_a_mistake_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text.encode(), source="/etc/policy.yaml")
    assert message in caught.value.message
    assert caught.value.message.startswith("/etc/policy.yaml")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(b"replicas: {mni: 1}\npicking: {bound: x}", source="p")
    assert len(caught.value.message.splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_policy(tmp_path / "nowhere.yaml")


def test_the_file_is_laid_over_the_defaults_given() -> None:
    policy = parse_policy(b"replicas: {max: 4}", source="p", defaults=ClusterPolicy.fixed(3))
    assert (policy.replicas.min, policy.replicas.max) == (3, 4)


def test_a_broken_edit_keeps_the_last_good_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("replicas: {max: 3}")
    watched = PolicyFile(path)
    assert watched.policy.replicas.max == 3
    assert not watched.sync()

    path.write_text("replicas: {max: 4}")
    assert watched.sync()
    assert watched.policy.replicas.max == 4

    path.write_text("replicas: {mxa: 5}")
    assert not watched.sync()
    assert watched.policy.replicas.max == 4
    assert "replicas.mxa" in (watched.error or "")

    path.unlink()
    assert not watched.sync()
    assert "cannot be read" in (watched.error or "")

    path.write_text("replicas: {max: 4}")
    assert not watched.sync()
    assert watched.error is None


def test_a_first_policy_that_is_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("pins: 3")
    with pytest.raises(ConfigError, match="pins"):
        PolicyFile(path)


def test_pins_resolve_by_alias_and_owner(build) -> None:
    adapters = [build.info("sql"), build.info("shell")]
    pins = [
        Pin(adapter="sql", copies="all"),
        Pin(adapter="shell", owner="acme", copies=9),
        Pin(adapter="slq"),
        Pin(adapter="shell", owner="globex"),
    ]
    least, unknown = resolve_pins(pins, adapters, replicas=3)
    assert least == {"digest-sql": 3, "digest-shell": 3}
    assert unknown == (
        'pins[2].adapter: no adapter "slq"; did you mean "sql"?',
        'pins[3].adapter: no adapter "globex/shell"',
    )


def test_an_alias_of_two_owners_needs_the_owner(build) -> None:
    adapters = [
        build.info("sql"),
        replace(build.info("sql", owner="globex"), digest="digest-other"),
    ]
    least, unknown = resolve_pins([Pin(adapter="sql")], adapters, replicas=2)
    assert least == {}
    assert "belongs to acme, globex" in unknown[0]
    assert resolve_pins([Pin(adapter="sql", owner="globex")], adapters, replicas=2)[0] == {
        "digest-other": 1
    }
