"""Two policies compared, and one policy compared with the cluster that it is for."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.differences import consequences, differences
from cluster.placement.policy.policy_load import parse_policy
from cluster.placement.policy.present_cluster import (
    PresentCluster,
    advice_there,
    problems_there,
)

MONDAY = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
BEFORE = "tiers: {gold: {}, standard: {}}\ntenants: {'*': standard}\nreplicas: {min: 1, max: 4}"


def policy(text: str) -> ClusterPolicy:
    return parse_policy(text.encode(), source="p")


def test_each_field_that_changes_is_named_with_both_values() -> None:
    after = policy(BEFORE.replace("max: 4", "max: 2, hold: 10s") + "\nadapters: [{adapter: a}]")
    assert [str(each) for each in differences(policy(BEFORE), after)] == [
        "replicas.max 4 -> 2",
        "replicas.hold 30 -> 10",
        "adapters[0].adapter (none) -> a",
        "adapters[0].owner (none) -> null",
        "adapters[0].copies (none) -> 1",
    ]
    assert differences(after, after) == ()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("acme, '*'", "'*', acme", ["tenants [acme, *] -> [*, acme]"]),
        ("a, b, c, d", "a, c, b, d", ["tenants [b, c] -> [c, b]"]),
        ("a, b", "a, c, b", ["tenants.c (none) -> gold"]),
        ("a, b, c", "c, a", ["tenants.b gold -> (none)", "tenants [a, c] -> [c, a]"]),
        ("a, b", "a, b", []),
    ],
)
def test_the_order_of_tenants_is_one_difference(before: str, after: str, told: list[str]) -> None:
    old, new = (
        policy(f"tiers: {{gold: {{}}}}\ntenants: {{{', '.join(f'{p}: gold' for p in names)}}}")
        for names in (before.split(", "), after.split(", "))
    )
    assert [str(each) for each in differences(old, new)] == told


@pytest.mark.parametrize(
    ("fields", "running", "words"),
    [
        ("min: 1, max: 2", 3, "3 run now and at most 2 may: one will be drained"),
        ("min: 1, max: 2", 9, "9 run now and at most 2 may: 7 will be drained"),
        ("min: 3, max: 4", 1, "1 run now and at least 3 must: 2 will be started"),
        ("min: 1, max: 8", 2, "2 run now, within 1 to 8: none is added or drained at once"),
        ("min: 1, max: 4, mode: off", 3, "3 run now and at most 1 may: 2 will be drained"),
        ("min: 1, max: 4, mode: observe", 3, "the count stays at 3: replicas.mode is observe"),
        (
            "min: 1, max: 4, schedule: [{days: mon, min: 3}]",
            2,
            "2 run now and at least 3 must: one will be started",
        ),
    ],
)
def test_the_count_that_follows_is_told(fields: str, running: int, words: str) -> None:
    after = policy(BEFORE.replace("min: 1, max: 4", fields))
    there = PresentCluster(replicas=running)
    assert list(consequences(policy(BEFORE), after, there, MONDAY)) == [words]


@pytest.mark.parametrize(
    ("fields", "starting", "words"),
    [
        ("min: 2, max: 4", 1, "2 run now and one more starts, within 2 to 4: none is added or dra"),
        ("min: 1, max: 2", 1, "2 run now and one more starts, at most 2 may: one will be drained"),
        ("min: 5, max: 6", 2, "2 run now and 2 more start, at least 5 must: one will be started"),
        ("min: 3, max: 4", 1, "2 run now and one more starts, within 3 to 4: none is added or dra"),
    ],
)
def test_replicas_that_start_are_counted(fields: str, starting: int, words: str) -> None:
    after = policy(BEFORE.replace("min: 1, max: 4", fields))
    there = PresentCluster(replicas=2, starting=starting)
    (told,) = consequences(policy(BEFORE), after, there, MONDAY)
    assert told.startswith(words)


SQL = "adapters: [{adapter: sql, copies: COPIES}]"
"""A rule; without copies there is none."""
MORE, FEWER = "what is missing is prefetched", "others stay until their room is needed"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("", "all", f"one on every replica placed NOW, none was promised before; {MORE}"),
        ("", "{min: 1, max: 2}", f"at least 1 placed NOW, none was promised before; {MORE}"),
        ("1", "2", f"at least 2 placed NOW, 1 before; {MORE}"),
        ("1", "all", f"one on every replica placed NOW, 1 before; {MORE}"),
        ("2", "1", f"at least 1 placed NOW, 2 before; {FEWER}"),
        ("all", "1", f"at least 1 placed NOW, all before; {FEWER}"),
        ("all", "", "its rule promises no copies NOW; demand decides, and what is there stays "),
        ("2", "{max: 2}", "its rule promises no copies NOW; demand decides, and what is there"),
    ],
)
def test_what_a_rule_of_copies_does_is_told(
    build: Any, before: str, after: str, words: str
) -> None:
    old, new = (
        policy(f"{BEFORE}\n{SQL.replace('COPIES', copies)}" if copies else BEFORE)
        for copies in (before, after)
    )
    there = PresentCluster(adapters=(build.info("sql"),), replicas=2)
    told = [line for line in consequences(old, new, there, MONDAY) if "its copies" not in line]
    expected = f'"sql": {words}'.replace("NOW", "from the next tick on")
    assert any(line.startswith(expected) for line in told), told
    observed = policy(f"{BEFORE}\nplacement: {{mode: observe}}")
    observed = observed.model_copy(update={"adapters": new.adapters})
    told = list(consequences(old, observed, there, MONDAY))
    assert any("once placement.mode is on" in line for line in told), told


def test_replicas_that_a_rule_needs_are_told(build: Any) -> None:
    after = policy(f"{BEFORE}\n{SQL.replace('COPIES', '3')}")
    there = PresentCluster(adapters=(build.info("sql"),), replicas=2)
    told = list(consequences(policy(BEFORE), after, there, MONDAY))
    assert told[0] == "2 run now and at least 3 must: one will be started"
    told = list(consequences(policy(BEFORE), after, PresentCluster(replicas=2), MONDAY))
    assert not any("run now" in line for line in told), "no adapter is called so"


def test_a_schedule_of_another_day_has_no_consequence_now() -> None:
    after = policy(BEFORE.replace("max: 4", "max: 4, schedule: [{days: sun, min: 3}]"))
    assert list(consequences(policy(BEFORE), after, PresentCluster(replicas=2), MONDAY)) == []


def test_tenants_that_change_tier_are_named() -> None:
    after = policy(BEFORE.replace("'*': standard", "acme: gold, 'g*': standard"))
    there = PresentCluster(tenants=frozenset({"acme", "globex", "zeta"}), replicas=1)
    assert list(consequences(policy(BEFORE), after, there, MONDAY)) == [
        "tenant acme: standard -> gold",
        "tenant zeta: standard -> no tier",
    ]


@pytest.mark.parametrize(("rule", "told"), [("trend", "last minutes"), ("daily", "time of day")])
def test_what_a_forecast_does_is_told(rule: str, told: str) -> None:
    before, after = policy(BEFORE), policy(BEFORE.replace("min: 1", f"forecast: {rule}, min: 1"))
    there = PresentCluster(replicas=1)
    (words,) = consequences(before, after, there, MONDAY)
    assert told in words
    (back,) = consequences(after, before, there, MONDAY)
    assert back == "replicas are added for the load that is there"


@pytest.mark.parametrize("mode", ["off", "observe"])
def test_what_a_mode_of_placement_does_is_told(mode: str) -> None:
    after = policy(f"{BEFORE}\nplacement: {{mode: {mode}}}")
    (words,) = consequences(policy(BEFORE), after, PresentCluster(replicas=1), MONDAY)
    assert "replicas" in words


def test_more_adapters_on_every_replica_than_it_has_slots_are_refused(build) -> None:
    adapters = tuple(build.info(f"a{number}") for number in range(17))
    rules = "\n".join(f"  - {{adapter: a{number}, copies: all}}" for number in range(17))
    there = PresentCluster(adapters=adapters, slots=16, adapter_bytes=1000)
    (problem,) = problems_there(policy(f"adapters:\n{rules}"), there)
    assert problem.path == "adapters[16].copies"
    assert "17 adapters on every replica need as many slots, and a replica has 16" in problem.words
    (problem,) = problems_there(policy("adapters: [{adapter: '*', copies: all}]"), there)
    assert problem.path == "adapters[0].copies"
    unknown = PresentCluster(adapters=adapters)
    assert list(problems_there(policy("adapters: [{adapter: '*', copies: all}]"), unknown)) == []


def test_more_bytes_on_every_replica_than_it_has_are_refused(build) -> None:
    adapters = tuple(build.info(f"a{number}", nbytes=2_000_000) for number in range(3))
    there = PresentCluster(adapters=adapters, slots=16, adapter_bytes=5_000_000)
    (problem,) = problems_there(policy("adapters: [{adapter: 'a*', copies: all}]"), there)
    assert "3 adapters on every replica take 6 MB, and a replica has 5 MB" in problem.words


def test_an_adapter_that_no_replica_has_room_for_is_refused(build) -> None:
    there = PresentCluster(adapters=(build.info("big", nbytes=10**9),), adapter_bytes=10**6)
    (problem,) = problems_there(policy("adapters: [{adapter: big}]"), there)
    assert problem.path == "adapters[0].adapter"
    assert '"big" has 1000 MB, and a replica has 1 MB' in problem.words


def test_more_copies_than_all_replicas_have_slots_are_refused(build) -> None:
    adapters = tuple(build.info(f"a{number}") for number in range(5))
    text = "replicas: {max: 2}\nadapters: [{adapter: a0}, {adapter: 'a*', copies: 2}]"
    (problem,) = problems_there(policy(text), PresentCluster(adapters=adapters, slots=4))
    assert problem.path == "adapters[1].copies"
    assert "10 copies are promised, and 2 replicas of 4 slots hold 8" in problem.words


def test_each_of_two_rules_counts_its_own_adapters(build) -> None:
    adapters = tuple(build.info(f"a{number}") for number in range(3))
    text = "replicas: {max: 2}\nadapters: [{adapter: a0, copies: 2}, {adapter: 'a*', copies: 1}]"
    assert list(problems_there(policy(text), PresentCluster(adapters=adapters, slots=2))) == []
    text = text.replace("copies: 1", "copies: 2")
    (problem,) = problems_there(policy(text), PresentCluster(adapters=adapters, slots=2))
    assert "with this rule 6 copies are promised" in problem.words


def test_of_many_unknown_tenants_the_first_have_hints() -> None:
    names = [f"tenant-{number:04}" for number in range(500)]
    listed = ", ".join(f"{name}x: standard" for name in names)
    there = PresentCluster(tenants=frozenset(names))
    found = list(advice_there(policy(f"tenants: {{{listed}, '*': standard}}"), there))
    assert len(found) == len(names)
    assert 'did you mean "tenant-0000"?' in str(found[0])
    assert str(found[-1]) == "tenants.tenant-0499x: no such tenant yet"


def test_names_that_the_cluster_does_not_have_are_warned_of(build) -> None:
    text = "tenants: {acmee: standard, 'x-*': standard, '*': standard}\nadapters: [{adapter: slq}]"
    there = PresentCluster(tenants=frozenset({"acme"}), adapters=(build.info("sql"),))
    assert [str(each) for each in advice_there(policy(text), there)] == [
        'tenants.acmee: no such tenant; did you mean "acme"?',
        'adapters[0].adapter: no adapter "slq"; did you mean "sql"?',
    ]
