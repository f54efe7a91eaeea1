"""The controller's state machine, tick by tick."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import ReplicaId
from cluster.domain.plan_version import PlanVersion
from cluster.domain.work import StepTotals, WorkTotals
from cluster.placement.control.drain import ServeReplica, ServeReplicas
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import FrontReporter
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.placement.policy import ClusterPolicy, Pin, PlacementPolicy, ReplicasPolicy

WALL = datetime(2030, 1, 1, tzinfo=UTC)


def policy_of(replicas: int = 2, pins=(), mode="on", **placement) -> ClusterPolicy:
    return ClusterPolicy(
        replicas=ReplicasPolicy(min=replicas, max=replicas),
        placement=PlacementPolicy(**{"spare_share": 0.0, "mode": mode, **placement}),
        pins=tuple(pins),
    )


PIN_A = [Pin(adapter="a", copies="all")]
ONE_A = [Pin(adapter="a", copies=1)]


@pytest.fixture
def infos(build):
    return [build.info(name) for name in "abc"]


class Bench:
    """A reconciler, and how many snapshots each replica has given."""

    def __init__(self, build, infos, policy, *, epoch: int = 1, **options) -> None:
        self.reconciler = Reconciler(epoch, CostModel(), **options)
        self.build, self.infos, self.policy = build, infos, policy
        self.sequences: dict[str, int] = {}

    def hear(self, at: float, replica: str = "r0", **snapshot) -> None:
        self.sequences[replica] = self.sequences.get(replica, 0) + 1
        said = self.build.snapshot(replica, sequence=self.sequences[replica], **snapshot)
        self.reconciler.hear_replica(said, at)

    def tick(self, at: float, *replicas: str, running: int | None = None, **snapshot):
        for replica in replicas:
            self.hear(at, replica, **snapshot)
        count = len(self.sequences) if running is None else running
        serve = ServeCounts(self.policy.replicas.min, count, 0)
        return self.reconciler.tick(self.infos, self.policy, serve, at, WALL)

    def fail(self, at: float, **failed: str) -> None:
        self.reconciler.acknowledge(
            "r0",
            PlanVersion(1, 1),
            failed={f"digest-{name}": message for name, message in failed.items()},
            policy=self.policy,
            now=at,
        )

    def kinds(self) -> list[str]:
        return [change.kind for change in self.reconciler.history]


def test_a_plan_is_sent_until_it_is_acknowledged_and_loaded(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A), resend_s=5.0)
    (told,) = bench.tick(100.0, "r0").replica_plans
    assert (told.replica_id, told.desired) == ("r0", ("digest-a",))
    assert told.version.epoch == 1
    assert bench.tick(101.0, "r0").replica_plans == ()
    assert bench.tick(105.0, "r0").replica_plans == (told,)
    follows = {"desired": ("a",), "desired_version": told.version}
    loading = (build.resident("a", AdapterState.LOADING),)
    assert bench.tick(106.0, "r0", resident=loading, **follows).replica_plans == ()
    for at in (107.0, 109.0, 111.0):
        ready = bench.tick(at, "r0", resident=(build.resident("a"),), **follows)
        assert ready.replica_plans == ()

    # Given up by the replica itself: wanted again, at the same version.
    (again,) = bench.tick(113.0, "r0", **follows).replica_plans
    assert again == told


def test_history_and_status_say_why(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, [*PIN_A, Pin(adapter="zz")]))
    bench.tick(100.0, "r0")
    status = bench.reconciler.status(100.0)
    json.dumps(status)
    assert status["standing"] == "leads"
    assert status["replicas"]["r0"]["desired"] == [{"digest": "digest-a", "adapter": "a"}]
    assert status["unknown_pins"] == ['pins[1].adapter: no adapter "zz"']
    (entry,) = status["adapters"]
    assert entry["reason"].startswith("copies 0 -> 1: pinned to 1")
    kinds = [(line["kind"], line["adapter"]) for line in status["history"]]
    assert kinds == [("copies", "a"), ("prefetch", "a"), ("replica_joined", "")]
    assert {line["at"] for line in status["history"]} == {WALL.timestamp()}


def test_moves_never_push_the_fleet_out_of_the_history(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A), history=3)
    bench.tick(100.0, "r0")
    for number in range(20):
        bench.fail(100.0 + number, a=f"failure {number}")
        bench.tick(100.0 + number)
    assert bench.kinds().count("failed") == 3
    assert "replica_joined" in bench.kinds()


def test_failed_prefetches_wait_twice_as_long_each_time(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A, retry_s=10.0))

    def wanted(at: float) -> bool:
        bench.tick(at, "r0")
        return bool(bench.reconciler.status(at)["replicas"]["r0"]["desired"])

    assert wanted(100.0)
    bench.fail(101.0, a="corrupt")
    for at in (102.0, 104.0, 106.0, 108.0, 110.9):
        assert not wanted(at)
    assert wanted(111.0)
    bench.fail(112.0, a="corrupt")
    for at in range(113, 132, 2):
        assert not wanted(float(at))
    assert wanted(132.0)
    (failure,) = bench.reconciler.status(132.0)["failures"]
    assert (failure["attempts"], failure["message"], failure["retry_in_s"]) == (2, "corrupt", 0.0)
    bench.reconciler.acknowledge(
        "r0", PlanVersion(1, 9), loaded=["digest-a"], policy=bench.policy, now=133.0
    )
    assert bench.reconciler.status(133.0)["failures"] == []


def test_what_is_no_longer_listed_has_failed_nowhere(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1))
    bench.tick(100.0, "r0")
    bench.fail(100.0, a="corrupt", b="corrupt")
    failures = bench.reconciler.status(100.0)["failures"]
    assert [failure["digest"] for failure in failures] == ["digest-a", "digest-b"]
    bench.infos = infos[1:]
    bench.tick(101.0, "r0")
    failures = bench.reconciler.status(101.0)["failures"]
    assert [failure["digest"] for failure in failures] == ["digest-b"]


def home_and_other(bench: Bench, at: float = 100.0) -> tuple[str, str]:
    """Have the one copy of "a" placed; return the replica that it is for, and the other one."""
    (told,) = [one for one in bench.tick(at, "r0", "r1").replica_plans if one.desired]
    home = str(told.replica_id)
    return home, "r1" if home == "r0" else "r0"


def test_a_dead_replicas_adapters_are_told_elsewhere_in_the_same_tick(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    home, other = home_and_other(bench)
    bench.reconciler.replica_died(home, 100.5, "ActorDiedError")
    (told,) = bench.tick(101.0, other).replica_plans
    assert (told.replica_id, told.desired) == (other, ("digest-a",))
    (line,) = [c for c in bench.reconciler.history if c.kind == "replica_lost"]
    assert line.message == "ActorDiedError; 1 placed adapters lost a copy"
    bench.hear(101.5, home)
    assert home not in bench.reconciler.status(101.5)["replicas"], "what it said came too late"


def test_a_hung_replica_is_suspect_after_3_s_and_gone_after_15(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    home, other = home_and_other(bench)
    told = [bench.tick(100.0 + second, other).replica_plans for second in range(1, 4)]
    assert told == [(), (), ()]
    (elsewhere,) = bench.tick(104.0, other).replica_plans
    assert (elsewhere.replica_id, elsewhere.desired) == (other, ("digest-a",))
    assert bench.reconciler.status(104.0)["replicas"][home]["suspect"]
    for second in range(5, 17):
        bench.tick(100.0 + second, other)
    assert home not in bench.reconciler.status(116.0)["replicas"]
    assert bench.kinds().count("replica_suspect") == bench.kinds().count("replica_lost") == 1


def test_a_replica_missing_for_a_moment_loses_nothing(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    home, other = home_and_other(bench)
    version = bench.reconciler.status(100.0)["version"]
    for at in (101.0, 102.0, 102.9):
        bench.tick(at, other)
    bench.tick(103.0, home, other)
    assert bench.reconciler.status(103.0)["version"] == version


@pytest.mark.parametrize("answers", [True, False])
def test_a_fronts_word_of_a_lost_link_counts_unless_the_replica_answers(
    build, infos, answers
) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    home, other = home_and_other(bench)
    bench.tick(101.0, "r0", "r1")
    bench.reconciler.hear_front(FrontReport(FrontId("f"), 1, dead=(home,)), 101.2)
    if answers:
        bench.hear(101.4, home)
    told = bench.tick(101.7, other).replica_plans
    assert [one.replica_id for one in told if one.desired] == ([] if answers else [other])
    assert bench.reconciler.status(101.7)["replicas"][home]["suspect"] is not answers


def test_an_answer_that_was_on_its_way_does_not_revive_a_replica(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    home, other = home_and_other(bench)
    bench.reconciler.hear_front(FrontReport(FrontId("f"), 1, dead=(home,)), 101.2)
    bench.reconciler.hear_replica(build.snapshot(home, sequence=9), 101.3, asked_at=101.1)
    bench.tick(101.7, other)
    assert bench.reconciler.status(101.7)["replicas"][home]["suspect"]
    bench.reconciler.hear_replica(build.snapshot(home, sequence=10), 102.0, asked_at=101.9)
    bench.tick(102.0, other)
    assert not bench.reconciler.status(102.0)["replicas"][home]["suspect"]
    assert "replica_back" in bench.kinds()


def test_a_controller_that_was_stopped_itself_blames_nobody(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, ONE_A))
    bench.tick(100.0, "r0", "r1")
    version = bench.reconciler.status(100.0)["version"]
    bench.tick(190.0)
    bench.tick(190.5, "r0", "r1")
    assert bench.reconciler.status(190.5)["version"] == version
    assert "replica_suspect" not in bench.kinds()


def test_old_and_repeated_snapshots_say_nothing(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, ONE_A))
    bench.hear(100.0, "r0", resident=(build.resident("a"),))
    bench.hear(100.0, "r0")
    for second in range(1, 6):
        bench.tick(100.0 + second)
        bench.reconciler.hear_replica(build.snapshot("r0", sequence=1 + second % 2), 100.5 + second)
    status = bench.reconciler.status(105.5)["replicas"]["r0"]
    assert status["suspect"], "repetitions are no sign of life"
    assert status["resident"] == []


def test_a_draining_replica_gets_nothing_new(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, PIN_A))
    bench.hear(100.0, "r0", draining=True)
    actions = bench.tick(100.0, "r1")
    assert [told.replica_id for told in actions.replica_plans] == ["r1"]


def test_a_controller_without_state_takes_over_what_replicas_follow(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A), epoch=7)
    follows = {
        "resident": (build.resident("a"),),
        "desired": ("a", "b"),
        "desired_version": PlanVersion(6, 41),
    }
    actions = bench.tick(100.0, "r0", **follows)
    assert actions.moves == ()
    (claim,) = actions.replica_plans
    assert claim.desired == ("digest-a",), "what is not there is not fetched by a repetition"
    assert claim.version > PlanVersion(6, 41)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_nothing_is_taken_away_before_all_have_reported(build, infos, mode) -> None:
    bench = Bench(build, infos, policy_of(4, mode=mode), epoch=7)
    follows = {
        "resident": tuple(build.resident(name) for name in "abc"),
        "desired": ("a", "b", "c"),
        "desired_version": PlanVersion(6, 41),
    }
    first = bench.tick(100.0, "r0", running=4, **follows)
    assert (first.replica_count, first.moves) == (4, ())
    assert [set(told.desired) for told in first.replica_plans] == [
        {"digest-a", "digest-b", "digest-c"}
    ]


def test_off_lets_every_hold_go_once(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A, mode="off"))
    there = {"resident": (build.resident("a"),)}
    held = {**there, "desired": ("a",), "desired_version": PlanVersion(0, 5)}
    (told,) = bench.tick(100.0, "r0", **held).replica_plans
    assert told.desired == ()
    follows = {**there, "desired_version": told.version}
    assert bench.tick(101.0, "r0", **follows).replica_plans == ()
    assert bench.tick(110.0, "r0", **follows).replica_plans == ()
    assert bench.tick(110.0, "r0", **follows).copies == ()


def test_observe_says_what_it_would_do_and_sends_nothing(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A, mode="observe"))
    for at in (100.0, 101.0, 102.0):
        actions = bench.tick(at, "r0")
        assert actions.replica_plans == ()
        assert [move.digest for move in actions.moves] == ["digest-a"]
    assert bench.kinds().count("prefetch") == 1, "it is said once"
    assert bench.reconciler.status(102.0)["replicas"]["r0"]["desired"] == []


def test_without_an_epoch_nothing_is_planned_until_there_is_one(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A), epoch=0)
    bench.policy = policy_of(3, PIN_A)
    actions = bench.tick(100.0, "r0")
    assert (actions.replica_plans, actions.moves, actions.replica_count) == ((), (), 3)
    assert "no epoch yet" in bench.reconciler.status(100.0)["standing"]
    bench.reconciler.lead(4, 100.5)
    (told,) = bench.tick(101.0, "r0").replica_plans
    assert (told.version.epoch, told.desired) == (4, ("digest-a",))


@pytest.mark.parametrize("heard", ["snapshot", "acknowledgement", "store"])
def test_a_higher_epoch_ends_the_right_to_act(build, infos, heard) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A))
    bench.tick(100.0, "r0")
    theirs = PlanVersion(2, 1)
    if heard == "snapshot":
        bench.hear(100.5, "r0", desired_version=theirs)
    elif heard == "acknowledgement":
        bench.reconciler.acknowledge("r0", theirs, policy=bench.policy, now=100.5)
    else:
        bench.reconciler.leadership.learn(2)
    actions = bench.tick(110.0, "r0")
    assert (actions.replica_plans, actions.moves) == ((), ())
    assert "higher epoch 2" in actions.replica_reason
    bench.reconciler.lead(3, 111.0)
    assert bench.tick(111.0, "r0").replica_plans[0].version > theirs


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
    policy = ClusterPolicy(replicas=replicas, pins=tuple(ONE_A))
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
    pins = tuple(Pin(adapter=name, copies=copies[name]) for name in names)
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=5), pins=pins)
    bench = Bench(build, infos, policy)
    actions = bench.tick(100.0, "r0")
    assert (actions.wishes["floor"], actions.replica_count) == (floor, floor)


def test_an_earlier_lifes_lines_come_before_this_ones(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1), history=3)
    bench.tick(100.0, "r0")
    (joined,) = bench.reconciler.history
    earlier = [replace(joined, at=float(number), message=str(number)) for number in range(5)]
    bench.reconciler.restore_history(earlier)
    assert bench.reconciler.history == (*earlier[3:], joined)
