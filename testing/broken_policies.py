"""Lists policies as operators get them wrong, with words of the answer."""

from dataclasses import dataclass

_BILLION = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nreplicas: {schedule: *c}\n"


@dataclass(frozen=True)
class BrokenPolicy:
    """Describes one document, where it is wrong, and words of the advice."""

    text: str
    path: str
    words: str


BROKEN_POLICIES: tuple[BrokenPolicy, ...] = (
    # Keys
    BrokenPolicy("replicas: {mni: 1}", "replicas.mni", 'unknown key; did you mean "min"?'),
    BrokenPolicy("replcias: {min: 1}", "replcias", 'unknown key; did you mean "replicas"?'),
    BrokenPolicy("picking: {bond: 1}", "picking.bond", 'did you mean "bound"?'),
    BrokenPolicy("tiers: {gold: {tft: 1}}", "tiers.gold.tft", 'did you mean "ttft"?'),
    BrokenPolicy("zzz: 1", "zzz", "unknown key; known keys: adapters, picking"),
    BrokenPolicy(
        "adapters: [{adapter: a}, {adaptor: b}]", "adapters[1].adaptor", 'mean "adapter"?'
    ),
    BrokenPolicy("adapters: [{adapter: a}, {adaptor: b}]", "adapters[1].adapter", "is missing"),
    BrokenPolicy("replicas: {up: {stabel: 3}}", "replicas.up.stabel", 'did you mean "stable"?'),
    BrokenPolicy("replicas: {stabel: 3}", "replicas.stabel", '"stable" under up or down?'),
    BrokenPolicy("payback: 5m", "payback", 'did you mean "payback" under placement?'),
    BrokenPolicy("tft: 1s\nttft: 1s", "ttft", 'did you mean "ttft" under tiers.NAME?'),
    BrokenPolicy("adapter: [{adapter: sql}]", "adapter", 'did you mean "adapters"?'),
    BrokenPolicy("replicas: {down: {drian: 3}}", "replicas.down.drian", 'did you mean "drain"?'),
    BrokenPolicy(
        'replicas: {schedule: [{form: "07:30", min: 1}]}', "replicas.schedule[0].form", "from"
    ),
    BrokenPolicy("replicas: {min: 1, min: 2}", "replicas.min", 'key "min" is written twice'),
    BrokenPolicy("tenants: {no: standard}", "tenants", "put it in quotes"),
    BrokenPolicy("tiers: {1: {}}", "tiers", "the key '1' is not text; put it in quotes"),
    BrokenPolicy("? '" + "." * 99999 + "'\n: 1", "", "is too long; shorten it"),
    BrokenPolicy("? [a]\n: 1", "", "a list cannot be a key; write the name of a field"),
    BrokenPolicy("? {a: 1}\n: 1", "", "a mapping cannot be a key; write the name of a field"),
    BrokenPolicy("replicas: {<<: {min: 1}}", "replicas", "merge keys are not read; write the"),
    # Of earlier forms
    BrokenPolicy("version: 1", "version", "must be 2, not 1; write version: 2"),
    BrokenPolicy("version: two", "version", "must be 2, not 'two'"),
    BrokenPolicy("pins: [{adapter: sql}]", "pins", "is gone; name it adapters"),
    BrokenPolicy("placement: {window_s: 30}", "placement.window_s", "is gone; remove it; demand"),
    BrokenPolicy("placement: {lost_after_s: 0.01}", "placement.lost_after_s", "is gone; remove it"),
    BrokenPolicy("picking: {stale_after_s: .001}", "picking.stale_after_s", "is gone; remove it"),
    BrokenPolicy("picking: {load_slack: 8}", "picking.load_slack", "is gone; remove it"),
    BrokenPolicy(
        "replicas: {upscale_delay_s: 8}", "replicas.upscale_delay_s", 'set "up: {stable: 10s}'
    ),
    BrokenPolicy(
        "replicas: {target_running_per_replica: 8}", "replicas.target_running_per_replica", "t"
    ),
    # Numbers
    BrokenPolicy("replicas: {min: yes}", "replicas.min", "must be a whole number, not True"),
    BrokenPolicy("replicas: {min: two}", "replicas.min", "must be a whole number, not 'two'"),
    BrokenPolicy("replicas: {min: }", "replicas.min", "must be a whole number, not None"),
    BrokenPolicy("replicas: {min: -1}", "replicas.min", "must be at least 0, not -1"),
    BrokenPolicy("replicas: {min: [1]}", "replicas.min", "must be a whole number, not [1]"),
    BrokenPolicy("replicas: {min: 1.5}", "replicas.min", "must be a whole number, not 1.5"),
    BrokenPolicy("replicas: {min: 010}", "replicas.min", "010 is read as 8: leave out the 0"),
    BrokenPolicy("replicas: {min: 1_0}", "replicas.min", "'1_0' has a _; write the digits alone"),
    BrokenPolicy("replicas: {target: 0.7_0}", "replicas.target", "has a _; write the digits"),
    BrokenPolicy("replicas: {min: 2024-01-01}", "replicas.min", "is read as timestamp"),
    BrokenPolicy("replicas: {min: 2024-13-41}", "replicas.min", "is read as timestamp"),
    BrokenPolicy("replicas: {max: 1000000000}", "replicas.max", "must be at most 10000"),
    BrokenPolicy("replicas: {max: 1e400}", "replicas.max", "must be finite, not inf"),
    *(
        BrokenPolicy(f"replicas: {{max: {number}}}", "replicas.max", "is too long a number; write")
        for number in ("9" * 400, "9" * 5000, "0x" + "f" * 4000, "0" + "7" * 5000, "0b" + "1" * 999)
    ),
    BrokenPolicy("replicas: {max: .inf}", "replicas.max", "must be finite, not inf"),
    BrokenPolicy("replicas: {max: 1:30}", "replicas.max", "must be a whole number, not '1:30'"),
    BrokenPolicy("replicas: {target: .nan}", "replicas.target", "must be finite, not nan"),
    BrokenPolicy("replicas: {target: 170%}", "replicas.target", "must be at most 1, not '170%'"),
    BrokenPolicy("replicas: {target: 0}", "replicas.target", "must be at least 0.01, not 0"),
    BrokenPolicy("replicas: {target: 0.000001}", "replicas.target", "must be at least 0.01"),
    BrokenPolicy(
        "replicas: {target: 70 percent}", "replicas.target", 'a share such as 0.02 or "2%"'
    ),
    BrokenPolicy("replicas: {target: \u0665%}", "replicas.target", 'a share such as 0.02 or "2%"'),
    BrokenPolicy("replicas: {cold_share: -2%}", "replicas.cold_share", "must be a share"),
    BrokenPolicy("picking: {bound: 0.5}", "picking.bound", "must be at least 1, not 0.5"),
    BrokenPolicy("picking: {bound: yes}", "picking.bound", "must be a number, not True"),
    BrokenPolicy("picking: {harm: 1e9}", "picking.harm", "must be at most 1000"),
    BrokenPolicy('picking: {prefix: "yes"}', "picking.prefix", "must be true or false, not 'yes'"),
    BrokenPolicy("picking: {max_queued: 0}", "picking.max_queued", "must be at least 1, not 0"),
    # Times
    BrokenPolicy("replicas: {hold: .inf}", "replicas.hold", "must be finite, not inf"),
    BrokenPolicy("replicas: {hold: 5 minutes}", "replicas.hold", 'a duration such as "500ms"'),
    BrokenPolicy("replicas: {hold: -5s}", "replicas.hold", "must be seconds, or a duration"),
    BrokenPolicy("replicas: {hold: 5w}", "replicas.hold", "must be seconds, or a duration"),
    BrokenPolicy("replicas: {hold: 400d}", "replicas.hold", "must be at most 86400"),
    BrokenPolicy("replicas: {up: {stable: soon}}", "replicas.up.stable", "must be seconds"),
    BrokenPolicy("tiers: {gold: {ttft: 0}}", "tiers.gold.ttft", "must be at least 0.001, not 0"),
    BrokenPolicy("tiers: {gold: {ttft: 2e308}}", "tiers.gold.ttft", "must be finite, not inf"),
    BrokenPolicy("tiers: {gold: {itl: null}}", "tiers.gold.itl", "must be seconds"),
    BrokenPolicy("placement: {retry_s: .0001}", "placement.retry_s", "must be at least 0.1"),
    BrokenPolicy("tiers: {standard: {weight: 0}}", "tiers.standard.weight", "at least 0.001"),
    BrokenPolicy("tiers: {standard: {weight: 1e9}}", "tiers.standard.weight", "at most 1000"),
    BrokenPolicy("tiers: {standard: {weight: no}}", "tiers.standard.weight", "must be a number"),
    # Kinds
    BrokenPolicy("replicas: 3", "replicas", "must be a mapping of keys and values, not 3"),
    *(
        BrokenPolicy(f"version: 2\n{path}: {null}", path, "is empty; leave it out, or give entries")
        for path in ("tiers", "tenants", "replicas", "placement", "adapters", "picking")
        for null in ("", "~")
    ),
    BrokenPolicy("replicas: {up: }", "replicas.up", "is empty; leave it out, or give entries"),
    BrokenPolicy("replicas: {schedule: }", "replicas.schedule", "is empty; leave it out, or give"),
    BrokenPolicy("tiers: {gold: }", "tiers.gold", "is empty; leave it out, or give entries"),
    BrokenPolicy("adapters: [~]", "adapters[0]", "is empty; leave it out, or give entries"),
    BrokenPolicy("version: ~", "version", "must be 2, not None; write version: 2"),
    BrokenPolicy("replicas: [min, max]", "replicas", "must be a mapping of keys and values"),
    BrokenPolicy("tiers: [gold]", "tiers", "must be a mapping of keys and values"),
    BrokenPolicy("tiers: {gold: fast}", "tiers.gold", "must be a mapping of keys and values"),
    BrokenPolicy("tenants: [acme]", "tenants", "must be a mapping of keys and values"),
    BrokenPolicy("tenants: {acme: {ttft: 1}}", "tenants.acme", "must be text"),
    BrokenPolicy("adapters: {sql: all}", "adapters", "must be a list"),
    BrokenPolicy(
        "adapters: [sql]", "adapters[0]", "must be a mapping of keys and values, not 'sql'"
    ),
    BrokenPolicy("replicas: {schedule: mon-fri}", "replicas.schedule", "must be a list"),
    BrokenPolicy("replicas: {mode: maybe}", "replicas.mode", "must be 'on', 'observe' or 'off'"),
    BrokenPolicy("replicas: {mode: obsrve}", "replicas.mode", 'did you mean "observe"?'),
    BrokenPolicy(
        "replicas: {mode: yes}", "replicas.mode", "must be 'on', 'observe' or 'off', not True"
    ),
    BrokenPolicy(
        "placement: {forecast: trend}", "placement.forecast", 'is gone; set "forecast" under'
    ),
    BrokenPolicy(
        "replicas: {forecast: weekly}", "replicas.forecast", "must be 'off', 'trend' or 'daily'"
    ),
    # Names
    BrokenPolicy(
        'tenants: {"": standard}', "tenants.", "matches no tenant; use lower-case letters"
    ),
    BrokenPolicy("tenants: {ACME: standard}", "tenants.ACME", "matches no tenant"),
    BrokenPolicy('tenants: {"acme[": standard}', "tenants.acme[", "matches no tenant"),
    BrokenPolicy("tiers: {gold plus: {}}", "tiers.gold plus", "is not a tier's name; use letters"),
    BrokenPolicy("tiers: {gold: {}}\ntenants: {acme: gld}", "tenants.acme", 'did you mean "gold"?'),
    BrokenPolicy(
        "tenants: {acme: zz}", "tenants.acme", "there is no tier 'zz'; tiers are standard"
    ),
    BrokenPolicy("tiers: {}", "tenants.*", "there is no tier 'standard'; name it under tiers"),
    BrokenPolicy("adapters: [{adapter: acme/sql}]", "adapters[0].adapter", "the tenant as owner"),
    BrokenPolicy(
        'adapters: [{adapter: ""}]', "adapters[0].adapter", "matches no adapter; give a name"
    ),
    BrokenPolicy('adapters: [{adapter: "legal-[!]"}]', "adapters[0].adapter", "matches no adapter"),
    BrokenPolicy(
        'adapters: [{adapter: a, owner: "*"}]', "adapters[0].owner", "'*' is not a tenant"
    ),
    BrokenPolicy('adapters: [{adapter: a, owner: ""}]', "adapters[0].owner", "'' is not a tenant"),
    BrokenPolicy(
        "adapters: [{adapter: a}, {adapter: a}]", "adapters[1].adapter", "remove one of the two"
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: none}]", "adapters[0].copies", "a whole number of at"
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: 0}]", "adapters[0].copies", 'at least 1, or "all"'
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: true}]", "adapters[0].copies", 'at least 1, or "all"'
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: 9}]", "adapters[0].copies", "need as many replicas"
    ),
    BrokenPolicy("adapters: [{adapter: a, owner: 3}]", "adapters[0].owner", "must be text, not 3"),
    # Schedules
    BrokenPolicy(
        "replicas: {schedule: [{}]}", "replicas.schedule[0].min", "changes nothing; give min"
    ),
    BrokenPolicy(
        "replicas: {schedule: [{days: mo, min: 1}]}", "replicas.schedule[0].days", 'mean "mon"'
    ),
    BrokenPolicy(
        "replicas: {schedule: [{zone: Europe/Berln, min: 1}]}",
        "replicas.schedule[0].zone",
        'did you mean "Europe/Berlin"?',
    ),
    BrokenPolicy(
        'replicas: {schedule: [{from: "24:30", min: 1}]}',
        "replicas.schedule[0].from",
        'must be a time in quotes such as "07:30"',
    ),
    BrokenPolicy(
        "replicas: {schedule: [{from: 7, min: 1}]}",
        "replicas.schedule[0].from",
        'must be a time in quotes such as "07:30", not 7',
    ),
    BrokenPolicy(
        'replicas: {schedule: [{from: "07:30", to: "07:15", min: 1}]}',
        "replicas.schedule[0].to",
        "would last 23 h 45 min, into the next day; name a later time",
    ),
    BrokenPolicy(
        'replicas: {schedule: [{from: "07:30", to: "07:30", min: 1}]}',
        "replicas.schedule[0].to",
        "07:30 to 07:30 is empty; name a later time",
    ),
    BrokenPolicy(
        'replicas: {schedule: [{from: "24:00", min: 1}]}',
        "replicas.schedule[0].to",
        "24:00 to 24:00 is empty",
    ),
    BrokenPolicy(
        "replicas: {schedule: [{min: 3, max: 2}]}",
        "replicas.schedule[0].min",
        "3 is above max 2; lower min or raise max",
    ),
    BrokenPolicy(
        "replicas: {schedule: [{min: 3}]}",
        "replicas.schedule[0].min",
        "3 is above replicas.max 2; lower it, or give the entry a max",
    ),
    BrokenPolicy(
        "replicas: {min: 2, schedule: [{max: 1}]}",
        "replicas.schedule[0].max",
        "1 is below replicas.min 2; raise it, or give the entry a min",
    ),
    # Contradictions
    BrokenPolicy(
        "replicas: {min: 8, max: 4}", "replicas.min", "8 is above replicas.max 4; lower min"
    ),
    BrokenPolicy(
        "replicas: {min: 0}", "replicas.min", "0 needs replicas.zero_after; set that to a time"
    ),
    BrokenPolicy(
        "replicas: {schedule: [{min: 0}]}",
        "replicas.schedule[0].min",
        "0 needs replicas.zero_after",
    ),
    BrokenPolicy(
        "replicas: {zero_after: 15m}", "replicas.zero_after", "it needs min 0, and min is 1"
    ),
    BrokenPolicy(
        "replicas: {min: 0, zero_after: 1m, mode: off}", "replicas.mode", "off keeps min replicas"
    ),
    BrokenPolicy(
        "replicas: {zero_after: 1m, mode: off, schedule: [{days: sat, min: 0}]}",
        "replicas.mode",
        "off keeps min replicas, and schedule[0].min is 0",
    ),
    BrokenPolicy(
        "{replicas: {max: 9}, placement: {min_copies: 4, max_copies: 2}}",
        "placement.min_copies",
        "4 is above max_copies 2; lower it or raise max_copies",
    ),
    BrokenPolicy(
        "placement: {min_copies: 3}",
        "placement.min_copies",
        "3 copies need as many replicas, but replicas.max is 2; lower min_copies or raise",
    ),
    BrokenPolicy(
        "placement: {retry_s: 9, max_retry_s: 3}", "placement.retry_s", "raise max_retry_s"
    ),
    # Least copies of a tier, most copies of an adapter
    BrokenPolicy(
        "tiers: {standard: {min_copies: 3}}",
        "tiers.standard.min_copies",
        "3 copies need as many replicas, but replicas.max is 2; lower min_copies or raise",
    ),
    BrokenPolicy(
        "replicas: {schedule: [{days: sat, max: 3}]}\ntiers: {standard: {min_copies: 4}}",
        "tiers.standard.min_copies",
        "4 copies need as many replicas, but replicas.max is 3; lower min_copies or raise",
    ),
    BrokenPolicy(
        "{replicas: {max: 9}, placement: {max_copies: 2}, tiers: {standard: {min_copies: 3}}}",
        "tiers.standard.min_copies",
        "3 is above placement.max_copies 2; lower it or raise max_copies",
    ),
    BrokenPolicy(
        "tiers: {standard: {min_copies: 0}}",
        "tiers.standard.min_copies",
        "must be at least 1, not 0",
    ),
    BrokenPolicy(
        "tiers: {standard: {min_copies: all}}",
        "tiers.standard.min_copies",
        "must be a whole number, not 'all'",
    ),
    BrokenPolicy(
        "tiers: {standard: {min_copies: 1.5}}",
        "tiers.standard.min_copies",
        "must be a whole number, not 1.5",
    ),
    BrokenPolicy(
        "tiers: {standard: {mincopies: 2}}",
        "tiers.standard.mincopies",
        'unknown key; did you mean "min_copies"?',
    ),
    BrokenPolicy(
        "tiers: {standard: {copies: 2}}",
        "tiers.standard.copies",
        'unknown key; did you mean "min_copies"?',
    ),
    BrokenPolicy("tiers: {standard: {spread: node}}", "tiers.standard.spread", "unknown key"),
    BrokenPolicy("tiers: {standard: {percentile: 95}}", "tiers.standard.percentile", "unknown key"),
    BrokenPolicy("adapters: [{adapter: a, avoid: b}]", "adapters[0].avoid", "unknown key"),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {min: 2, max: 1}}]",
        "adapters[0].copies.min",
        "2 is above max 1; lower min, or raise max or leave it out",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {min: all, max: 2}}]",
        "adapters[0].copies.min",
        "all is above max 2; lower min, or raise max or leave it out",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {min: 8, max: 9}}]",
        "adapters[0].copies.min",
        "8 copies need as many replicas, but replicas.max is 2; lower min or raise",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {min: 8}}]",
        "adapters[0].copies",
        "8 copies need as many replicas, but replicas.max is 2; lower copies or raise",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {max: 0}}]",
        "adapters[0].copies.max",
        "must be at least 1, not 0",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {max: all}}]",
        "adapters[0].copies.max",
        "must be a whole number, not 'all'",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {min: 0}}]",
        "adapters[0].copies.min",
        'must be a whole number of at least 1, or "all"',
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {mx: 1}}]",
        "adapters[0].copies.mx",
        'unknown key; did you mean "max"?',
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: {}}]",
        "adapters[0].copies",
        "the rule changes nothing; give min or max",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, copies: [1, 2]}]",
        "adapters[0].copies",
        "or bounds such as {min: 1, max: 2}, not [1, 2]",
    ),
    BrokenPolicy(
        "adapters: [{adapter: a, max_copies: 1}]",
        "adapters[0].max_copies",
        'unknown key; did you mean "copies"?',
    ),
    # No document
    *(
        BrokenPolicy(text, "", "empty; begin with version: 2")
        for text in ("", "\n \n", "\ufeff", "# later\n", "---", "--- # later", "~", "null", "{}")
    ),
    BrokenPolicy('""', "", "expected a mapping of sections, found text; begin with version: 2"),
    BrokenPolicy("replicas: {min: 1", "", "not valid YAML"),
    BrokenPolicy("replicas:\n\tmin: 1", "", "not valid YAML"),
    BrokenPolicy("a: 1\n---\nb: 2", "", "expected a single document"),
    BrokenPolicy("- a", "", "expected a mapping of sections, found a list; begin with version: 2"),
    BrokenPolicy("just text", "", "expected a mapping of sections, found text"),
    BrokenPolicy("replicas: \0", "", "not valid YAML"),
    BrokenPolicy("!!null {replicas: {min: 1}}", "", "'!!null' is not a tag of a policy; leave it"),
    BrokenPolicy("!!null 3", "", "expected a mapping of sections, found text"),
    BrokenPolicy("replicas: !!python/object:os.system {}", "replicas", "not a tag of a policy"),
    BrokenPolicy("replicas: !!set {min, max}", "replicas", "'!!set' is not a tag of a policy"),
    BrokenPolicy("adapters: !!omap [a: 1]", "adapters", "'!!omap' is not a tag of a policy"),
    BrokenPolicy("adapters: [!!seq {adapter: sql}]", "adapters[0]", "'!!seq' is not a tag"),
    BrokenPolicy("replicas: {!!str 1: 2}", "replicas", "the key '1' is not text; put it in quotes"),
    *(
        BrokenPolicy(f"replicas: {{mode: {value}}}", "replicas.mode", "is not a tag of a policy")
        for value in (
            "!!python/name:os.system x",
            "!!bool maybe",
            "!!int ''",
            "!!float ''",
            "!!null on",
            "!!str 5",
            "!!timestamp now",
            "!!binary on",
            "!own on",
        )
    ),
    BrokenPolicy(_BILLION, "", "*a: aliases are refused; write the value out"),
    BrokenPolicy("a: &a {b: *a}", "", "aliases are refused"),
    BrokenPolicy("replicas: " + "[" * 5000, "", "nested more than 16 deep"),
    BrokenPolicy("# " + "x" * (300 << 10), "", "bytes are too many; a policy has at most 262144"),
    BrokenPolicy(
        "replicas: {schedule: [" + "{min: 1}, " * 257 + "]}",
        "replicas.schedule",
        "must have at most 256 entries, not 257",
    ),
)
