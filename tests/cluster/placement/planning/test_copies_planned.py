"""Least copies by tier and most copies by rule, case by case."""

from dataclasses import replace

from cluster.placement.planning import reasons
from cluster.placement.planning.plan import ChurnLeft, PlacedFor
from cluster.placement.planning.planner import plan
from cluster.placement.planning.rules import PlanningRules, rules_of
from cluster.placement.policy.policy_load import parse_policy
from cluster.placement.policy.tiers import LeastCopies
from tests.support.planning_cases import (
    demand_of,
    fetched,
    follow,
    inputs_of,
    planned_set,
    rate_of,
    released,
    room_of,
)

GOLD = LeastCopies(2, "tiers.gold.min_copies")
RULES = PlanningRules(
    weights={"acme": 1.0, "globex": 1.0},
    promised={"acme": GOLD, "globex": LeastCopies(1)},
)


def test_each_set_of_a_tiers_tenant_has_the_copies_that_it_promises() -> None:
    rooms = [room_of("r0", "ab"), room_of("r1"), room_of("r2")]
    demand = demand_of(rate_of("acme", "a", 0.1), rate_of("globex", "b", 0.1))
    planned = plan(inputs_of(rooms, demand, rules=RULES))
    assert [digest for _, digest in fetched(planned)] == ["a"]
    assert planned_set(planned, "a").rule is PlacedFor.LEAST
    assert reasons.of_set(planned_set(planned, "a")).startswith("least copies on r0, r1: 0.1/s")
    assert reasons.of_set(planned_set(planned, "a")).endswith(
        "; tiers.gold.min_copies promises 2 copies"
    )
    assert "promises" not in reasons.of_set(planned_set(planned, "b"))


def test_of_a_sets_tenants_the_one_that_is_promised_most_decides() -> None:
    rooms = [room_of("r0", "a"), room_of("r1")]
    both = demand_of(rate_of("acme", "a", 0.002), rate_of("globex", "a", 9.0))
    assert fetched(plan(inputs_of(rooms, both, rules=RULES))) == [("r1", "a")]
    hardly = demand_of(rate_of("acme", "a", 0.0001), rate_of("globex", "a", 5.0))
    assert fetched(plan(inputs_of(rooms, hardly, rules=RULES))) == []


def test_where_not_all_promises_fit_the_densest_are_kept_and_the_others_named() -> None:
    rooms = [room_of("r0", "ab", slots=2), room_of("r1", slots=1)]
    planned = plan(inputs_of(rooms, demand_of(a=1.0, b=2.0), rules=RULES))
    assert fetched(planned) == [("r1", "b")]
    assert planned.unplaced == (
        (
            ("a",),
            "tiers.gold.min_copies: 1 of 2 copies have a place; no room: what is promised or in "
            "use takes all",
        ),
    )


def test_a_promise_that_waits_or_needs_more_replicas_is_named() -> None:
    demand = demand_of(a=1.0)
    alone = plan(inputs_of([room_of("r0", "a")], demand, rules=RULES))
    ((_, why),) = alone.unplaced
    assert why == (
        "tiers.gold.min_copies: 1 of 2 copies have a place; too few replicas: 1 may have it"
    )
    rooms = [room_of("r0", "a"), room_of("r1")]
    spent = ChurnLeft(0, 0, unused=False)
    ((_, why),) = plan(inputs_of(rooms, demand, rules=RULES, churn=spent)).unplaced
    assert why.endswith("waits: the minute's churn is spent")


def test_a_copy_that_a_dead_replica_had_is_made_again_while_the_other_serves() -> None:
    rooms = [room_of("r0", "a"), room_of("r1", "a"), room_of("r2")]
    inputs = inputs_of(rooms, demand_of(a=1.0), rules=RULES)
    assert plan(inputs).moves == ()
    left = replace(inputs, replicas=inputs.replicas[1:])
    assert plan(left).desired["r1"] == ("a",)
    assert fetched(plan(left)) == [("r2", "a")]


def test_no_more_copies_are_made_of_an_adapter_than_its_rule_allows() -> None:
    rooms = [room_of("r0", "a"), room_of("r1"), room_of("r2")]
    busy = demand_of(a=30.0)
    free = plan(inputs_of(rooms, busy))
    assert planned_set(free, "a").copies == 3
    bounded = plan(inputs_of(rooms, busy, most={"a": 2}))
    assert planned_set(bounded, "a").copies == 2
    assert len(fetched(bounded)) == 1
    assert reasons.of_set(planned_set(bounded, "a")).endswith("; 2 at most")
    wider = inputs_of(rooms, busy, most={"a": 2}, rules=PlanningRules(most=1))
    assert planned_set(plan(wider), "a").copies == 2, "the rule is narrower than the policy's bound"


def test_copies_that_picks_have_made_beyond_a_bound_are_not_planned() -> None:
    rooms = [room_of(name, "a", desired="") for name in ("r0", "r1", "r2")]
    demand = demand_of(a=1.0)

    def planned_on(**given: object) -> int:
        return len(planned_set(plan(inputs_of(rooms, demand, **given)), "a").replicas)

    assert planned_on() == 3
    assert planned_on(rules=PlanningRules(most=2)) == 2
    assert planned_on(most={"a": 1}) == 1


def test_a_rule_wins_over_what_a_tier_promises() -> None:
    rooms = [room_of("r0", "a"), room_of("r1")]
    planned = plan(inputs_of(rooms, demand_of(a=1.0), rules=RULES, most={"a": 1}))
    assert planned.moves == planned.unplaced == ()
    words = reasons.of_set(planned_set(planned, "a"))
    assert words.endswith("; tiers.gold.min_copies promises 2 copies; 1 at most")


def test_sets_share_the_copies_of_a_member_that_a_rule_bounds() -> None:
    rooms = [room_of("r0", "ab", desired=""), room_of("r1", "ac", desired="")]
    demand = demand_of(rate_of("acme", "ab", 2.0), rate_of("acme", "ac", 1.0))
    planned = plan(inputs_of(rooms, demand, most={"a": 1}))
    assert planned.desired == {"r0": ("a", "b"), "r1": ()}
    assert planned_set(planned, "a", "c").rule is PlacedFor.DEMAND
    promised = plan(inputs_of(rooms, demand, most={"a": 1}, rules=RULES))
    assert all("a" not in promised.desired[name] for name in ("r1",))
    whole = plan(follow(inputs_of(rooms, demand, most={"a": 1}, rules=RULES), promised))
    assert whole.desired["r0"] == ("a", "b", "c")
    small = [room_of("r0", "ab", slots=2), room_of("r1", "ac", slots=2)]
    ((members, why),) = plan(inputs_of(small, demand, most={"a": 1}, rules=RULES)).unplaced
    assert members == ("a", "c")
    assert why.endswith("0 of 1 copies have a place; bounded: a rule allows 1 of a at most")


def test_copies_above_a_new_bound_are_released_and_the_one_that_serves_stays() -> None:
    rooms = [room_of("r0", "", coming="a", desired="a"), room_of("r1", "a")]
    planned = plan(inputs_of(rooms, demand_of(a=1.0), most={"a": 1}))
    assert planned.desired == {"r0": (), "r1": ("a",)}
    rooms = [room_of("r0", "a"), room_of("r1", "a")]
    planned = plan(inputs_of(rooms, demand_of(a=30.0), most={"a": 1}))
    assert len(released(planned)) == 1
    assert planned.moves[0].reason == "too many copies: a rule allows 1 at most"


def test_a_set_that_may_have_one_copy_is_not_moved_to_even_out_work() -> None:
    rooms = [room_of("r0", "ab"), room_of("r1")]
    demand = demand_of(a=3.0, b=2.0)
    assert fetched(plan(inputs_of(rooms, demand))) != []
    assert fetched(plan(inputs_of(rooms, demand, most={"a": 1, "b": 1}))) == []


def test_a_policy_says_which_tenants_are_promised_how_much() -> None:
    text = (
        b"tiers: {gold: {min_copies: 2}, standard: {}}\ntenants: {acme: gold, '*': standard}\n"
        b"placement: {min_copies: 1}"
    )
    policy = parse_policy(text, source="p")
    rules = rules_of(policy, {}, {"acme", "globex"})
    assert rules.promised == {"acme": GOLD, "globex": LeastCopies(1)}
    other = parse_policy(text.replace(b"2}", b"1}"), source="p")
    assert not rules.ask_the_same(rules_of(other, {}, {"acme", "globex"}))
    assert rules.ask_the_same(rules_of(policy, {}, {"acme", "initech"}))
    assert rules_of(parse_policy(b"version: 2", source="p"), {}, {"acme"}).promised == {}
