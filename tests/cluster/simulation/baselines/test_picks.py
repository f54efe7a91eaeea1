"""Pick rules of others, on a real view of replicas."""

import itertools
from collections import Counter

import pytest

from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.rendezvous import mixture_key, order
from cluster.simulation.baselines.picks import BoundedRendezvousPick, LeastLoadedPick, RandomPick
from cluster.simulation.baselines.slots import ProportionalSlotsPick, allot
from cluster.simulation.spec import PickRuleFactory

T = TenantId("t")
NAMES = [ReplicaId(f"r{number}") for number in range(4)]
RULES: list[PickRuleFactory] = [
    RandomPick,
    LeastLoadedPick,
    BoundedRendezvousPick,
    ProportionalSlotsPick,
]


def snapshot(name: ReplicaId, running: int = 0, draining: bool = False) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        replica_id=name,
        address="",
        queued=0,
        running=running,
        kv_blocks_total=10,
        kv_blocks_free=10,
        slots_total=4,
        adapter_bytes_limit=100,
        adapter_bytes_used=0,
        resident=(),
        draining=draining,
        sequence=1,
    )


def make_view(*running: int) -> ClusterView:
    view = ClusterView()
    for name, count in zip(NAMES, running, strict=False):
        view.update(snapshot(name, count), 0.0)
    return view


def ask(*digests: str, exclude: tuple[ReplicaId, ...] = ()) -> PickRequest:
    return PickRequest(tuple(AdapterDigest(digest) for digest in digests), T, exclude)


@pytest.mark.parametrize("rule", RULES)
def test_nobody_is_picked_where_nobody_is(rule: PickRuleFactory) -> None:
    assert rule(0, 0).pick(make_view(), ask("a"), 0.0) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_replica_that_leaves_or_just_failed_is_not_picked(rule: PickRuleFactory) -> None:
    view = make_view(0, 0)
    view.update(snapshot(NAMES[2], draining=True), 0.0)
    made = rule(0, 0)
    picked = {made.pick(view, ask(f"a{n}", exclude=(NAMES[0],)), 0.0) for n in range(50)}
    assert picked == {NAMES[1]}


@pytest.mark.parametrize("rule", RULES)
def test_equal_rules_pick_alike(rule: PickRuleFactory) -> None:
    view = make_view(0, 0, 0, 0)
    first, second = (rule(0, 7) for _ in range(2))
    for number in range(30):
        request = ask(f"a{number % 5}")
        assert first.pick(view, request, number) == second.pick(view, request, number)


def test_random_picks_are_even() -> None:
    view, rule = make_view(9, 0, 0, 0), RandomPick(0, 1)
    counts = Counter(rule.pick(view, ask("a"), 0.0) for _ in range(4000))
    assert set(counts) == set(NAMES)
    assert all(800 < count < 1200 for count in counts.values())


def test_the_least_loaded_is_picked_and_ties_are_spread() -> None:
    view, rule = make_view(3, 1, 1, 2), LeastLoadedPick(0, 1)
    assert {rule.pick(view, ask("a"), 0.0) for _ in range(50)} == {NAMES[1], NAMES[2]}


def test_rendezvous_keeps_a_set_together_until_the_bound() -> None:
    view, rule = make_view(0, 0, 0, 0), BoundedRendezvousPick(0, 0)
    ranked = order(mixture_key([AdapterDigest("a"), AdapterDigest("b")]), NAMES)
    picked = []
    for number in range(8):
        request = ask("b", "a")
        chosen = rule.pick(view, request, 1.0)
        assert chosen is not None
        picked.append(chosen)
        view.sent(RequestId(f"q{number}"), chosen, request, 1.0)
    assert picked[0] == ranked[0]
    # With 4 replicas and 8 requests, none has more than ceil(1.25 * 8 / 4).
    assert max(Counter(picked).values()) <= 3
    assert len(set(picked)) >= 3


def test_slots_are_allotted_by_share() -> None:
    load = {AdapterDigest("hot"): 6.0, AdapterDigest("warm"): 2.0}
    table = allot(load, dict.fromkeys(NAMES[:2], 4))
    assert len(table[AdapterDigest("hot")]) == 2  # all replicas, though 6 of 8 slots are owed
    assert len(table[AdapterDigest("warm")]) == 2


def test_no_replica_is_allotted_more_than_its_slots_while_others_have_some() -> None:
    load = {AdapterDigest(f"a{number}"): 1.0 for number in range(16)}
    table = allot(load, dict.fromkeys(NAMES, 4))
    used = Counter(replica for replicas in table.values() for replica in replicas)
    assert used == dict.fromkeys(NAMES, 4)


def test_more_adapters_than_slots_keep_a_home_each() -> None:
    load = {AdapterDigest(f"a{number:02}"): 1.0 for number in range(40)}
    table = allot(load, dict.fromkeys(NAMES, 4))
    assert set(table) == set(load)
    assert all(len(replicas) == 1 for replicas in table.values())


def test_a_table_is_made_anew_after_each_step() -> None:
    """Before it has seen a step, an adapter has one home; after it, its share of all slots."""
    rule, view = ProportionalSlotsPick(0, 0), make_view(0, 0, 0, 0)

    def pick(at: float) -> ReplicaId:
        chosen = rule.pick(view, ask("a"), at)
        assert chosen is not None
        view.sent(RequestId(f"q{at}"), chosen, ask("a"), at)
        return chosen

    assert len({pick(second) for second in range(1, 25)}) == 1
    assert len({pick(second) for second in range(31, 60)}) > 1


def test_a_pair_goes_where_both_are_allotted() -> None:
    rule, view = ProportionalSlotsPick(0, 0), make_view(0, 0, 0, 0)
    digests = [AdapterDigest(f"a{number}") for number in range(8)]
    for second in range(31):
        for digest in digests:
            rule.pick(view, ask(digest), float(second))
    table = allot(dict.fromkeys(digests, 1.0), dict.fromkeys(NAMES, 4))
    together = [
        (a, b) for a, b in itertools.combinations(digests, 2) if set(table[a]) & set(table[b])
    ]
    assert together
    for a, b in together:
        assert rule.pick(view, ask(a, b), 31.0) in set(table[a]) & set(table[b])
