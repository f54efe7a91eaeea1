"""Counts, starts, and the controller's words to fronts, tick by tick."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cluster.domain.ids import ReplicaId, TenantId
from cluster.domain.work import StepTotals, WorkTotals
from cluster.placement.control.drain import ServeReplica, ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey, DemandTotals
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import FrontReporter
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.placement.policy import AdapterRule, ClusterPolicy, ReplicasPolicy, TierPolicy
from tests.support.reconciler_bench import ONE_A, WALL, Bench, policy_of


def test_a_controller_names_no_count_before_its_first_tick(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2))
    status = bench.reconciler.status(100.0)
    assert (status["replica_count"], status["scaling"]["count"]) == (None, None)
    bench.tick(100.0, "r0", "r1")
    assert bench.reconciler.status(100.0)["replica_count"] == 2


def test_a_lower_bound_ends_a_replica_as_soon_as_nothing_is_lost_by_it(build, infos) -> None:
    bench = Bench(build, infos, policy_of(3))
    names = ("r0", "r1", "r2")
    assert bench.tick(100.0, *names).replica_count == 3
    bench.policy = policy_of(2)
    for name in names:
        bench.hear(101.0, name)
    serve = ServeCounts(target=3, running=3, starting=0)
    actions = bench.reconciler.tick(infos, bench.policy, serve, 101.0, WALL)
    assert (actions.replica_count, actions.draining) == (2, {"r2"})


def test_the_last_replica_goes_at_once_though_it_alone_has_adapters(build, infos) -> None:
    replicas = ReplicasPolicy(min=0, max=2, zero_after=20)
    policy = ClusterPolicy(replicas=replicas, adapters=tuple(ONE_A))
    bench = Bench(build, infos, policy)
    serve = ServeCounts(target=1, running=1, starting=0)
    counts = []
    for second in range(100, 122):
        bench.hear(float(second), "r0", resident=(build.resident("a"),))
        actions = bench.reconciler.tick(infos, policy, serve, float(second), WALL)
        counts.append(actions.replica_count)
    assert counts == [1] * 20 + [0] * 2


def test_a_front_is_told_how_long_the_start_under_way_still_takes(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1))
    usual_s = CostModel().start_s

    def left_s(at: float, starting: int) -> float:
        serve = ServeCounts(1, 0, starting)
        begun = (ServeReplica(ReplicaId("r0"), "n", running=False),) * starting
        replicas = ServeReplicas(begun)
        bench.reconciler.tick(infos, bench.policy, serve, at, WALL, replicas=replicas)
        return bench.reconciler.hear_front(FrontReport(FrontId("f"), int(at)), at).retry_after_s

    assert left_s(100.0, 0) == usual_s
    assert left_s(101.0, 1) == usual_s
    assert left_s(105.0, 1) == usual_s - 4.0
    assert left_s(101.0 + 2 * usual_s, 1) == 0.0


@pytest.mark.parametrize(("day", "zero"), [(1, False), (5, True)])
def test_a_front_without_replicas_is_ready_where_the_least_in_force_is_zero(
    build, infos, day: int, zero: bool
) -> None:
    weekend = {"days": "sat-sun", "min": 0}
    replicas = ReplicasPolicy(min=1, max=2, zero_after=60, schedule=[weekend])
    policy = ClusterPolicy(replicas=replicas)
    bench = Bench(build, infos, policy)
    wall = datetime(2030, 1, day, 12, tzinfo=UTC)  # a Tuesday, a Saturday
    bench.reconciler.tick(infos, policy, ServeCounts(1, 0, 0), 100.0, wall)
    assert bench.reconciler.hear_front(FrontReport(FrontId("f"), 1), 100.0).zero is zero


def test_a_front_is_told_the_weights_that_tiers_name(build, infos) -> None:
    policy = ClusterPolicy(
        tiers={"gold": TierPolicy(weight=4), "usual": TierPolicy()},
        tenants={"acme": "gold", "night-*": "usual"},
    )
    bench = Bench(build, infos, policy)
    bench.tick(100.0, "r0")
    orders = bench.reconciler.hear_front(FrontReport(FrontId("f"), 1), 100.0)
    told = [orders.tier_weight(TenantId(name)) for name in ("acme", "night-1", "globex")]
    assert told == [4.0, None, None]


def test_a_front_is_told_what_to_go_by(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1))
    bench.tick(100.0, "r0")
    orders = bench.reconciler.hear_front(FrontReport(FrontId("f"), 5), 100.0)
    assert (orders.acknowledged, orders.epoch, orders.fronts) == (5, 1, 1)
    late = bench.reconciler.hear_front(FrontReport(FrontId("f"), 4, dead=("r0",)), 100.1)
    assert late.acknowledged == 5
    assert bench.reconciler.hear_front(FrontReport(FrontId("g"), 1), 100.2).fronts == 2
    assert bench.reconciler.hear_front(FrontReport(FrontId("g"), 2), 105.3).fronts == 1
    bench.tick(103.0)
    assert not bench.reconciler.status(103.0)["replicas"]["r0"]["suspect"]


def test_fronts_name_an_epoch_that_neither_the_store_nor_a_replica_knows(build, infos) -> None:
    """The store was wiped while no replica ran: the new controller's epoch is below the fronts'."""
    reporter = FrontReporter(FrontId("f"), DemandCounters(), RecentPicks())
    reporter.take(FrontOrders(0, 7))
    bench = Bench(build, infos, policy_of(1), epoch=1)
    orders = bench.reconciler.hear_front(reporter.compose(0, 100.0), 100.0)
    assert reporter.is_replaced(orders)
    right = bench.reconciler.leadership
    assert (right.leads, right.highest) == (False, 7)
    bench.reconciler.lead(right.highest + 1, 101.0)
    orders = bench.reconciler.hear_front(reporter.compose(0, 101.0), 101.0)
    assert not reporter.is_replaced(orders)


def test_a_controller_that_leads_again_begins_with_the_count_of_the_one_between(
    build, infos
) -> None:
    bench = Bench(build, infos, ClusterPolicy(replicas=ReplicasPolicy(min=1, max=5)))

    def count(at: float, running: int) -> int:
        for number in range(running):
            bench.hear(at, f"r{number}")
        serve = ServeCounts(running, running, 0)
        return bench.reconciler.tick(infos, bench.policy, serve, at, WALL).replica_count

    assert count(100.0, 2) == 2
    bench.reconciler.leadership.learn(2)
    assert count(101.0, 4) == 4
    bench.reconciler.lead(3, 102.0)
    assert count(102.0, 4) == 4


def test_replicas_that_serve_stay_though_no_front_reports(build, infos) -> None:
    """A request in 10 s is over before the next look: only the engine's steps tell of it."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=2, zero_after=20))
    bench = Bench(build, infos, policy)
    serve = ServeCounts(target=1, running=1, starting=0)
    counts = {}
    for second in range(100, 182):
        steps = StepTotals(steps=min(second, 150) // 10)
        bench.hear(float(second), "r0", work=WorkTotals(steps=steps))
        actions = bench.reconciler.tick(infos, policy, serve, float(second), WALL)
        counts[second] = actions.replica_count
    assert [second for second, count in counts.items() if count == 0] == list(range(171, 182))


def test_starts_that_never_succeed_do_not_keep_an_idle_cluster_up(build, infos) -> None:
    """Each replica crashes 10 s after Serve began to start it, and Serve starts another one."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=2, zero_after=20))
    bench = Bench(build, infos, policy)
    target, ended = 1, None
    bench.reconciler.hear_front(FrontReport(FrontId("f"), 1, held=1), 100.0)
    for second in range(100, 400):
        starting = ServeReplica(ReplicaId(f"r{second // 10}"), "n", running=False)
        serve = ServeCounts(target, 0, target)
        replicas = ServeReplicas((starting,) * target)
        actions = bench.reconciler.tick(
            infos, policy, serve, float(second), WALL, replicas=replicas
        )
        target = actions.replica_count
        ended = second if target == 0 and ended is None else ended
    assert ended is not None
    assert ended - 100.0 == pytest.approx(2 * CostModel().start_s + 20, abs=2.0)
    assert target == 0


def test_cold_picks_of_another_number_of_replicas_do_not_count(build, infos) -> None:
    bench = Bench(build, infos, ClusterPolicy(replicas=ReplicasPolicy(min=1, max=5)))
    fronts = bench.reconciler._fronts
    bench.tick(100.0, "r0", running=1)
    for sequence, at in ((1, 100.0), (2, 101.0)):
        report = FrontReport(FrontId("f"), sequence, cold=40 * sequence, picked=50 * sequence)
        bench.reconciler.hear_front(report, at)
    bench.tick(102.0, "r0", running=1)
    assert fronts.cold_share(102.0) == pytest.approx(0.8)
    bench.tick(103.0, "r0", "r1", running=2)
    assert fronts.cold_share(103.0) is None


@pytest.mark.parametrize("how", ["dead", "suspect"])
def test_what_waited_at_a_replica_that_fell_silent_is_counted_where_it_waits_now(
    build, infos, how: str
) -> None:
    tenant = TenantId("acme")
    replicas = ReplicasPolicy(min=1, max=12, up={"stable": 0})
    bench = Bench(build, infos, ClusterPolicy(replicas=replicas))
    lost, kept = ReplicaId("r0"), ReplicaId("r1")
    totals = (DemandTotals(DemandKey(tenant, ()), 100, 10_000, age_s=10.0),)

    def wish(at: float, sequence: int, tokens: dict[ReplicaId, int], **report) -> int:
        report = {"predicted_ttft": {"standard": 9.0}, "demand": totals, **report}
        bench.reconciler.hear_front(FrontReport(FrontId("f"), sequence, **report), at)
        for replica, waiting in tokens.items():
            said = {"backlog": ((tenant, waiting),), "queued": waiting // 1000}
            bench.hear(at, replica, **said)
        return bench.tick(at, running=2).wishes["queue"]

    both = wish(100.0, 1, {lost: 50_000, kept: 50_000})
    if how == "dead":
        bench.reconciler.replica_died(lost, 100.5, "killed")
    assert wish(101.0, 2, {kept: 100_000}, dead=(lost,)) <= both
    assert wish(102.0, 3, {kept: 100_000}) <= both


def test_what_a_replica_can_do_is_known_while_none_runs(build, infos) -> None:
    replicas = ReplicasPolicy(min=0, max=9, zero_after=5)
    bench = Bench(build, infos, ClusterPolicy(replicas=replicas))
    bench.hear(100.0)
    serve = ServeCounts(target=1, running=1, starting=0)
    bench.reconciler.tick(infos, bench.policy, serve, 100.0, WALL)
    bench.reconciler.replica_died("r0", 101.0, "ended")
    bench.reconciler.hear_front(FrontReport(FrontId("f"), 1, held=9), 102.0)
    none = ServeCounts(target=0, running=0, starting=0)
    actions = bench.reconciler.tick(infos, bench.policy, none, 102.0, WALL)
    assert actions.replica_count == 1
    assert set(actions.wishes) == {"load", "memory", "queue", "floor"}


def test_a_start_teaches_its_time_without_waiting_for_room(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2))

    def look(at: float, *listed: ServeReplica) -> None:
        serve = ServeCounts(2, len(listed), 0)
        replicas = ServeReplicas(listed)
        bench.reconciler.tick(infos, bench.policy, serve, at, WALL, replicas=replicas)

    r0, r1 = ReplicaId("r0"), ReplicaId("r1")
    look(100.0)
    for name, asked, waited in ((r0, 110.0, 4.0), (r1, 200.0, 300.0)):
        look(asked, ServeReplica(name, "", running=False))
        look(asked + waited, ServeReplica(name, "n", running=False))
        bench.hear(asked + waited + 8.0, name)
    start = bench.reconciler.status(600.0)["model"]["start"]
    assert start == {"seconds": 12.0, "observed": [12.0, 12.0]}


@pytest.mark.parametrize(("names", "floor"), [("a", 3), ("z", 1), ("az", 3)])
def test_only_pins_of_adapters_that_exist_need_replicas(build, infos, names, floor) -> None:
    copies = {"a": 3, "z": 5}
    pins = tuple(AdapterRule(adapter=name, copies=copies[name]) for name in names)
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=5), adapters=pins)
    bench = Bench(build, infos, policy)
    actions = bench.tick(100.0, "r0")
    assert (actions.wishes["floor"], actions.replica_count) == (floor, floor)


def test_tiers_with_tenants_of_the_file_or_the_policy_need_replicas(build, infos) -> None:
    tiers = {"gold": TierPolicy(min_copies=3), "silver": TierPolicy(min_copies=2)}
    tenants = {"vip-*": "gold", "acme": "silver"}
    policy = ClusterPolicy(tiers=tiers, tenants=tenants, replicas=ReplicasPolicy(min=1, max=4))
    bench = Bench(build, infos, policy)
    assert bench.tick(100.0, "r0").wishes["floor"] == 2, "the policy names acme"
    told = FrontReport(FrontId("f"), 1, own_weights={TenantId("vip-1"): 1.0})
    bench.reconciler.hear_front(told, 100.5)
    actions = bench.tick(101.0, "r0")
    assert (actions.wishes["floor"], actions.replica_count) == (3, 3)
    assert actions.replica_reason.endswith("pins and tiers need 3 replicas")


def test_an_earlier_lifes_lines_come_before_this_ones(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1), history=3)
    bench.tick(100.0, "r0")
    (joined,) = bench.reconciler.history
    earlier = [replace(joined, at=float(number), message=str(number)) for number in range(5)]
    bench.reconciler.restore_history(earlier)
    assert bench.reconciler.history == (*earlier[3:], joined)
