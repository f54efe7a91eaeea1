"""Placing, from tick to tick."""

from cluster.placement.control import placing
from cluster.placement.planning.pins import resolve_pins
from cluster.placement.policy import AdapterRule, CopyBounds
from tests.support.reconciler_bench import PIN_A, Bench, policy_of


def test_rules_are_resolved_again_only_where_they_or_the_catalog_change(
    build, infos, monkeypatch
) -> None:
    resolved: list[int] = []

    def noting(rules, adapters):
        resolved.append(len(adapters))
        return resolve_pins(rules, adapters)

    monkeypatch.setattr(placing, "resolve_pins", noting)
    bench = Bench(build, tuple(infos), policy_of(1, PIN_A))
    for at in (100.0, 101.0, 102.0):
        bench.tick(at, "r0")
    assert resolved == [3]
    bench.infos = bench.infos[1:]
    bench.tick(103.0, "r0")
    assert bench.reconciler.status(103.0)["unknown_pins"] == ['adapters[0].adapter: no adapter "a"']
    bench.policy = policy_of(1)
    bench.tick(104.0, "r0")
    assert bench.reconciler.status(104.0)["unknown_pins"] == []
    assert resolved == [3, 2, 2]


def test_of_two_rules_about_an_adapter_the_promise_wins(build, infos) -> None:
    bound = AdapterRule(adapter="*", copies=CopyBounds(max=1))
    promise = AdapterRule(adapter="a", copies=CopyBounds(min=2))
    bench = Bench(build, tuple(infos), policy_of(2, [bound, promise]))
    actions = bench.tick(100.0, "r0", "r1")
    assert [plan.desired for plan in actions.replica_plans] == [("digest-a",), ("digest-a",)]
    assert actions.unplaced == ()
