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
placement: {max_moves_per_tick: 2, min_copies: 1, max_copies: 3, cooldown_s: 7}
pins:
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
        ("replicas: {min: 5, max: 2}", "replicas.min: 5 is above max 2; lower min or raise max"),
        ("replicas: {min: two}", "replicas.min: must be a whole number, not 'two'"),
        ("replicas: {min: yes}", "replicas.min: must be a whole number, not True"),
        ("replicas: {max: 2.5}", "replicas.max: must be a whole number, not 2.5"),
        ("replicas: {max: 1000000}", "replicas.max: 1000000 is above 10000"),
        ("replicas: {target: yes}", "replicas.target: must be a share"),
        ("replicas: {target: .nan}", "replicas.target: must be finite, not nan"),
        ("replicas: {target: 170%}", "replicas.target: Input should be less than"),
        ("replicas: {hold: .inf}", "replicas.hold: must be finite, not inf"),
        ("replicas: {hold: 5 minutes}", "replicas.hold: must be seconds, or a duration"),
        ("replicas: {hold: -5s}", "replicas.hold: must be seconds, or a duration"),
        ("replicas: {min: 0}", "replicas.min: 0 needs zero_after; set it to a time such as 15m"),
        ("replicas: {zero_after: 15m}", "replicas.zero_after: it needs min 0, and min is 1"),
        ("replicas: {min: 0, zero_after: 1m, mode: off}", "replicas.mode: off keeps min replicas"),
        ("replicas: {up: {stabel: 3}}", 'replicas.up.stabel: unknown key; did you mean "stable"?'),
        ("replicas: {schedule: [{}]}", "replicas.schedule[0].min: the entry changes nothing"),
        (
            'replicas: {schedule: [{from: "07:30", to: "07:30", min: 1}]}',
            "replicas.schedule[0].to: 07:30 to 07:30 is empty",
        ),
        (
            "replicas: {schedule: [{min: 3, max: 2}]}",
            "replicas.schedule[0].min: 3 is above max 2",
        ),
        ("replicas: {schedule: [{min: 3}]}", "replicas.schedule[0].min: 3 is above replicas.max 2"),
        (
            "replicas: {min: 2, schedule: [{max: 1}]}",
            "replicas.schedule[0].max: 1 is below replicas.min 2",
        ),
        (
            "replicas: {schedule: [{days: mo-fri, min: 1}]}",
            "replicas.schedule[0].days: 'mo' is not a day; did you mean \"mon\"?",
        ),
        (
            "replicas: {schedule: [{zone: Europe/Berln, min: 1}]}",
            'is not a time zone of this machine; did you mean "Europe/Berlin"?',
        ),
        (
            'replicas: {schedule: [{from: "25:00", min: 1}]}',
            "replicas.schedule[0].from: must be a time in quotes such as",
        ),
        (
            "replicas: {schedule: [{from: 19:30, min: 1}]}",
            "replicas.schedule[0].from: must be a time in quotes such as",
        ),
        (
            'replicas: {schedule: [{form: "07:30", min: 1}]}',
            'replicas.schedule[0].form: unknown key; did you mean "from"?',
        ),
        (
            "tiers: {gold: {}}\ntenants: {acme: gld}",
            "tenants.acme: there is no tier 'gld'; did you mean \"gold\"?",
        ),
        ("tiers: {gold: {ttft: 0}}", "tiers.gold.ttft: Input should be greater than 0"),
        ("tiers: {gold: {tft: 1}}", 'tiers.gold.tft: unknown key; did you mean "ttft"?'),
        (
            "replicas: {target_running_per_replica: 8}",
            'replicas.target_running_per_replica: is gone; set "target"',
        ),
        ("picking: {weights: {load: 1}}", "picking.weights: is gone; remove it"),
        ("picking: {load_bound: 2}", 'picking.load_bound: is gone; set "bound"'),
        ("picking: {load_slack: 8}", "picking.load_slack: is gone; remove it"),
        ("picking: {stale_after_s: 8}", "picking.stale_after_s: is gone; remove it"),
        ("replicas: {upscale_delay_s: 8}", 'is gone; set "up: {stable: 10s}"'),
        ("replicas: {downscale_delay_s: 8}", 'is gone; set "down: {stable: 5m}"'),
        ("replicas: {tolerance: .1}", "replicas.tolerance: is gone; remove it"),
        ("replicas: {window_s: 8}", "replicas.window_s: is gone; remove it"),
        ("picking: {bound: yes}", "picking.bound: must be a number, not True"),
        ("replicas: 3", "replicas: Input should be a valid dictionary"),
        (
            "placement: {min_copies: 4, max_copies: 2}",
            "placement.min_copies: 4 is above max_copies 2",
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


def test_an_unknown_key_hides_no_contradiction() -> None:
    text = b"replicas: {min: 8, max: 4, window_s: 3}\ntenants: {a: b}"
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, source="p")
    assert [line.split(":")[1].strip() for line in caught.value.message.splitlines()] == [
        "replicas.window_s",
        "replicas.min",
    ]


def test_a_policy_survives_being_dumped_and_read_again() -> None:
    policy = parse_policy(b"replicas: {schedule: [{from: '07:30', max: 2}]}", source="p")
    assert ClusterPolicy.model_validate(policy.model_dump(by_alias=True)) == policy


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
