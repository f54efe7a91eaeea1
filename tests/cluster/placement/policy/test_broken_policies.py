"""Broken policies: each is refused with the path of the mistake and with what to do."""

from dataclasses import dataclass

import pytest

from cluster.placement.policy.policy_load import examine_policy

BILLION = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nreplicas: {schedule: *c}\n"


@dataclass(frozen=True)
class Broken:
    """One document, where it is wrong, and words of the advice."""

    text: str
    path: str
    words: str


BROKEN: tuple[Broken, ...] = (
    # Keys
    Broken("replicas: {mni: 1}", "replicas.mni", 'unknown key; did you mean "min"?'),
    Broken("replcias: {min: 1}", "replcias", 'unknown key; did you mean "replicas"?'),
    Broken("picking: {bond: 1}", "picking.bond", 'did you mean "bound"?'),
    Broken("tiers: {gold: {tft: 1}}", "tiers.gold.tft", 'did you mean "ttft"?'),
    Broken("zzz: 1", "zzz", "unknown key; known keys: adapters, picking"),
    Broken("adapters: [{adapter: a}, {adaptor: b}]", "adapters[1].adaptor", 'mean "adapter"?'),
    Broken("adapters: [{adapter: a}, {adaptor: b}]", "adapters[1].adapter", "is missing"),
    Broken("replicas: {up: {stabel: 3}}", "replicas.up.stabel", 'did you mean "stable"?'),
    Broken("replicas: {down: {drian: 3}}", "replicas.down.drian", 'did you mean "drain"?'),
    Broken('replicas: {schedule: [{form: "07:30", min: 1}]}', "replicas.schedule[0].form", "from"),
    Broken("replicas: {min: 1, min: 2}", "replicas.min", 'key "min" is written twice'),
    Broken("tenants: {no: standard}", "tenants", "put it in quotes"),
    Broken("tiers: {1: {}}", "tiers", "the key '1' is not text; put it in quotes"),
    Broken("? [a]\n: 1", "", "not text; put it in quotes"),
    Broken("replicas: {<<: {min: 1}}", "replicas", "the key '<<' is not text"),
    # Of earlier forms
    Broken("version: 1", "version", "must be 2, not 1; write version: 2"),
    Broken("version: two", "version", "must be 2, not 'two'"),
    Broken("pins: [{adapter: sql}]", "pins", "is gone; name it adapters"),
    Broken("placement: {window_s: 30}", "placement.window_s", "is gone; remove it; demand"),
    Broken("placement: {lost_after_s: 0.01}", "placement.lost_after_s", "is gone; remove it"),
    Broken("picking: {stale_after_s: .001}", "picking.stale_after_s", "is gone; remove it"),
    Broken("picking: {load_slack: 8}", "picking.load_slack", "is gone; remove it"),
    Broken("replicas: {upscale_delay_s: 8}", "replicas.upscale_delay_s", 'set "up: {stable: 10s}'),
    Broken("replicas: {target_running_per_replica: 8}", "replicas.target_running_per_replica", "t"),
    # Numbers
    Broken("replicas: {min: yes}", "replicas.min", "must be a whole number, not True"),
    Broken("replicas: {min: two}", "replicas.min", "must be a whole number, not 'two'"),
    Broken("replicas: {min: }", "replicas.min", "must be a whole number, not None"),
    Broken("replicas: {min: -1}", "replicas.min", "must be at least 0, not -1"),
    Broken("replicas: {min: [1]}", "replicas.min", "must be a whole number, not [1]"),
    Broken("replicas: {min: 1.5}", "replicas.min", "must be a whole number, not 1.5"),
    Broken("replicas: {min: 010}", "replicas.min", "010 is read as 8: leave out the 0"),
    Broken("replicas: {min: 2024-01-01}", "replicas.min", "is read as timestamp"),
    Broken("replicas: {min: 2024-13-41}", "replicas.min", "is read as timestamp"),
    Broken("replicas: {max: 1000000000}", "replicas.max", "must be at most 10000"),
    Broken("replicas: {max: 1e400}", "replicas.max", "must be finite, not inf"),
    Broken(f"replicas: {{max: {'9' * 400}}}", "replicas.max", "must be finite"),
    Broken("replicas: {max: .inf}", "replicas.max", "must be finite, not inf"),
    Broken("replicas: {max: 1:30}", "replicas.max", "must be a whole number, not '1:30'"),
    Broken("replicas: {target: .nan}", "replicas.target", "must be finite, not nan"),
    Broken("replicas: {target: 170%}", "replicas.target", "must be at most 1, not '170%'"),
    Broken("replicas: {target: 0}", "replicas.target", "must be above 0"),
    Broken("replicas: {target: 70 percent}", "replicas.target", 'a share such as 0.02 or "2%"'),
    Broken("replicas: {cold_share: -2%}", "replicas.cold_share", "must be a share"),
    Broken("picking: {bound: 0.5}", "picking.bound", "must be at least 1, not 0.5"),
    Broken("picking: {bound: yes}", "picking.bound", "must be a number, not True"),
    Broken("picking: {harm: 1e9}", "picking.harm", "must be at most 1000"),
    Broken('picking: {prefix: "yes"}', "picking.prefix", "must be true or false, not 'yes'"),
    Broken("picking: {max_queued: 0}", "picking.max_queued", "must be at least 1, not 0"),
    # Times
    Broken("replicas: {hold: .inf}", "replicas.hold", "must be finite, not inf"),
    Broken("replicas: {hold: 5 minutes}", "replicas.hold", 'a duration such as "500ms"'),
    Broken("replicas: {hold: -5s}", "replicas.hold", "must be seconds, or a duration"),
    Broken("replicas: {hold: 5w}", "replicas.hold", "must be seconds, or a duration"),
    Broken("replicas: {hold: 400d}", "replicas.hold", "must be at most 86400"),
    Broken("replicas: {up: {stable: soon}}", "replicas.up.stable", "must be seconds"),
    Broken("tiers: {gold: {ttft: 0}}", "tiers.gold.ttft", "must be at least 0.001, not 0"),
    Broken("tiers: {gold: {ttft: 2e308}}", "tiers.gold.ttft", "must be finite, not inf"),
    Broken("tiers: {gold: {itl: null}}", "tiers.gold.itl", "must be seconds"),
    Broken("placement: {retry_s: .0001}", "placement.retry_s", "must be at least 0.1"),
    # Kinds
    Broken("replicas: 3", "replicas", "must be a mapping of keys and values, not 3"),
    Broken("replicas: [min, max]", "replicas", "must be a mapping of keys and values"),
    Broken("tiers: [gold]", "tiers", "must be a mapping of keys and values"),
    Broken("tiers: {gold: fast}", "tiers.gold", "must be a mapping of keys and values"),
    Broken("tenants: [acme]", "tenants", "must be a mapping of keys and values"),
    Broken("tenants: {acme: {ttft: 1}}", "tenants.acme", "must be text"),
    Broken("adapters: {sql: all}", "adapters", "must be a list"),
    Broken("adapters: [sql]", "adapters[0]", "must be a mapping of keys and values, not 'sql'"),
    Broken("replicas: {schedule: mon-fri}", "replicas.schedule", "must be a list"),
    Broken("replicas: {mode: maybe}", "replicas.mode", "must be 'on', 'observe' or 'off'"),
    Broken("replicas: {mode: obsrve}", "replicas.mode", 'did you mean "observe"?'),
    Broken("replicas: {mode: yes}", "replicas.mode", "must be 'on', 'observe' or 'off', not True"),
    Broken("placement: {forecast: trend}", "placement.forecast", "must be 'off', not 'trend'"),
    # Names
    Broken('tenants: {"": standard}', "tenants.", "matches no tenant; use lower-case letters"),
    Broken("tenants: {ACME: standard}", "tenants.ACME", "matches no tenant"),
    Broken("tiers: {gold plus: {}}", "tiers.gold plus", "is not a tier's name; use letters"),
    Broken("tiers: {gold: {}}\ntenants: {acme: gld}", "tenants.acme", 'did you mean "gold"?'),
    Broken("tenants: {acme: zz}", "tenants.acme", "there is no tier 'zz'; tiers are standard"),
    Broken("tiers: {}", "tenants.*", "there is no tier 'standard'; name it under tiers"),
    Broken("adapters: [{adapter: acme/sql}]", "adapters[0].adapter", "the tenant as owner"),
    Broken('adapters: [{adapter: ""}]', "adapters[0].adapter", "matches no adapter; give a name"),
    Broken(
        "adapters: [{adapter: a}, {adapter: a}]", "adapters[1].adapter", "remove one of the two"
    ),
    Broken("adapters: [{adapter: a, copies: none}]", "adapters[0].copies", "a whole number of at"),
    Broken("adapters: [{adapter: a, copies: 0}]", "adapters[0].copies", 'at least 1, or "all"'),
    Broken("adapters: [{adapter: a, copies: true}]", "adapters[0].copies", 'at least 1, or "all"'),
    Broken("adapters: [{adapter: a, copies: 9}]", "adapters[0].copies", "need as many replicas"),
    Broken("adapters: [{adapter: a, owner: 3}]", "adapters[0].owner", "must be text, not 3"),
    # Schedules
    Broken("replicas: {schedule: [{}]}", "replicas.schedule[0].min", "changes nothing; give min"),
    Broken("replicas: {schedule: [{days: mo, min: 1}]}", "replicas.schedule[0].days", 'mean "mon"'),
    Broken(
        "replicas: {schedule: [{zone: Europe/Berln, min: 1}]}",
        "replicas.schedule[0].zone",
        'did you mean "Europe/Berlin"?',
    ),
    Broken(
        'replicas: {schedule: [{from: "24:30", min: 1}]}',
        "replicas.schedule[0].from",
        'must be a time in quotes such as "07:30"',
    ),
    Broken(
        "replicas: {schedule: [{from: 7, min: 1}]}",
        "replicas.schedule[0].from",
        'must be a time in quotes such as "07:30", not 7',
    ),
    Broken(
        'replicas: {schedule: [{from: "07:30", to: "07:15", min: 1}]}',
        "replicas.schedule[0].to",
        "would last 23 h 45 min, into the next day; name a later time",
    ),
    Broken(
        'replicas: {schedule: [{from: "07:30", to: "07:30", min: 1}]}',
        "replicas.schedule[0].to",
        "07:30 to 07:30 is empty; name a later time",
    ),
    Broken(
        'replicas: {schedule: [{from: "24:00", min: 1}]}',
        "replicas.schedule[0].to",
        "24:00 to 24:00 is empty",
    ),
    Broken(
        "replicas: {schedule: [{min: 3, max: 2}]}",
        "replicas.schedule[0].min",
        "3 is above max 2; lower min or raise max",
    ),
    Broken(
        "replicas: {schedule: [{min: 3}]}",
        "replicas.schedule[0].min",
        "3 is above replicas.max 2; lower it, or give the entry a max",
    ),
    Broken(
        "replicas: {min: 2, schedule: [{max: 1}]}",
        "replicas.schedule[0].max",
        "1 is below replicas.min 2; raise it, or give the entry a min",
    ),
    # Contradictions
    Broken("replicas: {min: 8, max: 4}", "replicas.min", "8 is above replicas.max 4; lower min"),
    Broken("replicas: {min: 0}", "replicas.min", "0 needs replicas.zero_after; set that to a time"),
    Broken(
        "replicas: {schedule: [{min: 0}]}",
        "replicas.schedule[0].min",
        "0 needs replicas.zero_after",
    ),
    Broken("replicas: {zero_after: 15m}", "replicas.zero_after", "it needs min 0, and min is 1"),
    Broken(
        "replicas: {min: 0, zero_after: 1m, mode: off}", "replicas.mode", "off keeps min replicas"
    ),
    Broken(
        "placement: {min_copies: 4, max_copies: 2}",
        "placement.min_copies",
        "4 is above max_copies 2; lower it or raise max_copies",
    ),
    Broken("placement: {retry_s: 9, max_retry_s: 3}", "placement.retry_s", "raise max_retry_s"),
    # No document
    Broken("replicas: {min: 1", "", "not valid YAML"),
    Broken("replicas:\n\tmin: 1", "", "not valid YAML"),
    Broken("a: 1\n---\nb: 2", "", "expected a single document"),
    Broken("- a", "", "expected a mapping of sections, found a list; begin with version: 2"),
    Broken("just text", "", "expected a mapping of sections, found text"),
    Broken("replicas: \0", "", "not valid YAML"),
    Broken("replicas: !!python/object:os.system {}", "replicas", "not a tag of a policy; leave it"),
    Broken("replicas: {min: !!python/name:os.system x}", "replicas.min", "put it in quotes"),
    Broken(BILLION, "", "*a: aliases are refused; write the value out"),
    Broken("a: &a {b: *a}", "", "aliases are refused"),
    Broken("replicas: " + "[" * 5000, "", "nested more than 16 deep"),
    Broken("# " + "x" * (300 << 10), "", "bytes are too many; a policy has at most 262144"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.text[:40])
def test_a_mistake_is_named_with_its_path_and_what_to_do(broken: Broken) -> None:
    reading = examine_policy(broken.text.encode())
    assert reading.policy is None
    told = [p.words for p in reading.problems if p.path == broken.path]
    assert any(broken.words in words for words in told), reading.problems
    assert all(len(str(problem)) < 400 for problem in reading.problems)


def test_there_are_enough_of_them() -> None:
    assert len({broken.text for broken in BROKEN}) >= 100
