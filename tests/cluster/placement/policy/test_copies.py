"""Least copies of a tier and most copies of an adapter, as operators write them."""

from datetime import UTC, datetime

import pytest

from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy import AdapterRule, ClusterPolicy, CopyBounds
from cluster.placement.policy.advice import advice
from cluster.placement.policy.differences import consequences, differences
from cluster.placement.policy.policy_load import parse_policy
from cluster.placement.policy.present_cluster import PresentCluster, advice_there
from cluster.placement.policy.tiers import LeastCopies, least_copies, replicas_promised

MONDAY = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
TIERS = """
tiers: {gold: {min_copies: 3}, silver: {min_copies: 1}, standard: {}}
tenants: {acme: gold, "s-*": silver, "*": standard}
replicas: {max: 4}
placement: {min_copies: 2}
"""


def policy(text: str) -> ClusterPolicy:
    return parse_policy(text.encode(), source="p")


@pytest.mark.parametrize(
    ("written", "bounds"),
    [
        ("2", (2, None)),
        ("all", ("all", None)),
        ("{min: 2}", (2, None)),
        ("{max: 1}", (None, 1)),
        ("{min: 1, max: 2}", (1, 2)),
        ("{min: null, max: 2}", (None, 2)),
    ],
)
def test_copies_are_a_number_or_bounds(written: str, bounds: tuple[object, object]) -> None:
    read = policy(f"adapters: [{{adapter: a, copies: {written}}}]")
    copies = read.adapters[0].copies
    assert (copies.min, copies.max) == bounds
    assert ClusterPolicy.model_validate(read.model_dump(by_alias=True)) == read
    assert ClusterPolicy.model_validate_json(read.model_dump_json(by_alias=True)) == read


def test_a_rule_without_copies_promises_one() -> None:
    assert policy("adapters: [{adapter: a}]").adapters[0].copies == CopyBounds(min=1)


def test_bounds_are_written_as_short_as_they_can_be() -> None:
    texts = ("1", "all", "{max: 1}", "{min: 1, max: 2}")
    rules = ", ".join(f"{{adapter: a{n}, copies: {text}}}" for n, text in enumerate(texts))
    dumped = policy(f"adapters: [{rules}]").model_dump(mode="json")["adapters"]
    shortest = [1, "all", {"max": 1}, {"min": 1, "max": 2}]
    assert [rule["copies"] for rule in dumped] == shortest


def test_a_tenant_is_promised_what_its_tier_says_and_else_what_all_are() -> None:
    found = {name: least_copies(policy(TIERS), name) for name in ("acme", "s-1", "other")}
    assert found == {
        "acme": LeastCopies(3, "tiers.gold.min_copies"),
        "s-1": LeastCopies(1, "tiers.silver.min_copies"),
        "other": LeastCopies(2, "placement.min_copies"),
    }


@pytest.mark.parametrize(
    ("tenants", "pattern", "replicas"),
    [
        ((), "acme", 3),  # the policy names it
        ((), "acme-*", 1),  # no tenant is known that matches
        (("acme-1",), "acme-*", 3),
        (("other",), "acme-*", 2),
        (("s-1",), "acme-*", 1),
    ],
)
def test_replicas_are_needed_for_the_tiers_that_have_tenants(tenants, pattern, replicas) -> None:
    written = policy(TIERS.replace("acme:", f'"{pattern}":'))
    assert replicas_promised(written, tenants) == replicas


def test_a_pattern_that_stands_before_a_name_decides_its_tier() -> None:
    written = policy("tiers: {gold: {min_copies: 2}, standard: {}}\ntenants: {'*': standard}")
    behind = written.model_copy(update={"tenants": {"*": "standard", "acme": "gold"}})
    assert replicas_promised(behind, ()) == 1


def test_of_two_rules_the_larger_least_and_the_smaller_most_count(build) -> None:
    adapters = [build.info("legal-de"), build.info("legal-fr"), build.info("sql")]
    rules = [
        AdapterRule(adapter="legal-*", copies=CopyBounds(max=3)),
        AdapterRule(adapter="legal-de", copies=CopyBounds(min=1, max=2)),
    ]
    pins = resolve_pins(rules, adapters)
    assert pins.least_copies(3) == {"digest-legal-de": 1}
    assert pins.most_copies() == {"digest-legal-de": 2, "digest-legal-fr": 3}
    assert pins.replicas_needed(4) == 1


GOLD_2 = "tiers: {standard: {min_copies: 2}}\n"


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            GOLD_2 + "adapters: [{adapter: huge, copies: {max: 1}}]",
            "adapters[0].copies.max",
            "1 is below tiers.standard.min_copies 2, and the rule wins",
        ),
        (
            "placement: {min_copies: 2}\nadapters: [{adapter: huge, copies: {max: 1}}]",
            "adapters[0].copies.max",
            "1 is below placement.min_copies 2, and the rule wins",
        ),
        (
            GOLD_2 + "replicas: {schedule: [{days: sat-sun, max: 1}]}",
            "replicas.schedule[0].max",
            "1 is below tiers.standard.min_copies 2: while it holds, 1 of the promised copies",
        ),
        (
            GOLD_2 + "replicas: {max: 1, schedule: [{days: mon-fri, max: 3}]}",
            "replicas.max",
            "1 is below tiers.standard.min_copies 2",
        ),
    ],
)
def test_bounds_that_keep_a_promise_from_being_kept_are_warned_of(text, path, words) -> None:
    (warning,) = advice(policy(text))
    assert warning.path == path
    assert words in warning.words


def test_rules_that_contradict_each_other_about_one_adapter_are_warned_of(build) -> None:
    text = "adapters: [{adapter: 'a*', copies: {max: 1}}, {adapter: ab, copies: 2}]"
    there = PresentCluster(adapters=(build.info("aa"), build.info("ab")))
    assert [str(each) for each in advice_there(policy(text), there)][-1:] == [
        'adapters: "ab" has at most 1 copies by one rule and at least 2 by another, which wins; '
        "change one of the two"
    ]


def told(before: str, after: str, there: PresentCluster) -> list[str]:
    return list(consequences(policy(before), policy(after), there, MONDAY))


def test_more_copies_for_a_tier_are_told_with_the_replicas_that_they_need() -> None:
    tenants = frozenset({"acme", "globex"})
    before = "tiers: {gold: {}, standard: {}}\ntenants: {acme: gold, '*': standard}"
    after = before.replace("gold: {}", "gold: {min_copies: 2}")
    changes = differences(policy(before), policy(after))
    assert [str(each) for each in changes] == ["tiers.gold.min_copies null -> 2"]
    assert told(before, after, PresentCluster(tenants=tenants, replicas=1)) == [
        "1 run now and at least 2 must: one will be started",
        "2 copies, 1 before, of each set that is asked for by acme",
    ]
    many = PresentCluster(tenants=frozenset(f"t{n}" for n in range(9)), replicas=2)
    everybody = before.replace("standard: {}", "standard: {min_copies: 2}")
    assert told(before, everybody, many) == [
        "2 run now, within 2 to 2: none is added or drained at once",
        "2 copies, 1 before, of each set that is asked for by t0, t1, t2, t3, t4 and 4 more",
    ]


def test_where_scaling_is_off_promises_start_nothing() -> None:
    before = "tiers: {standard: {}}\nreplicas: {mode: off}"
    after = before.replace("standard: {}", "standard: {min_copies: 2}")
    there = PresentCluster(tenants=frozenset({"acme"}), replicas=1)
    assert told(before, after, there) == [
        "2 copies, 1 before, of each set that is asked for by acme"
    ]


def test_bounds_of_an_adapter_are_told() -> None:
    there = PresentCluster(replicas=1)
    before = "adapters: [{adapter: huge, owner: acme, copies: {max: 2}}]"
    after = "adapters: [{adapter: huge, owner: acme, copies: {max: 1}}]"
    (words,) = told(before, after, there)
    assert words.startswith('"acme/huge": at most 1 placed from the next tick on')
    assert told(after, "replicas: {}", there) == ['"acme/huge": no rule bounds its copies any more']
    assert told(after, after, there) == []
    changes = differences(
        policy("adapters: [{adapter: a}]"), policy("adapters: [{adapter: a, copies: {max: 1}}]")
    )
    assert [str(each) for each in changes] == [
        "adapters[0].copies 1 -> (none)",
        "adapters[0].copies.max (none) -> 1",
    ]
