"""The controller's state machine, tick by tick."""

import json

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.plan_version import PlanVersion
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.exchange import FrontId, FrontReport
from cluster.placement.planning.planner import plan
from cluster.placement.policy import AdapterRule
from tests.support.reconciler_bench import ONE_A, PIN_A, WALL, Bench, policy_of


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
    bench = Bench(build, infos, policy_of(1, [*PIN_A, AdapterRule(adapter="zz")]))
    bench.tick(100.0, "r0")
    status = bench.reconciler.status(100.0)
    json.dumps(status)
    assert status["standing"] == "leads"
    assert status["replicas"]["r0"]["desired"] == [{"digest": "digest-a", "adapter": "a"}]
    assert status["unknown_pins"] == ['adapters[1].adapter: no adapter "zz"']
    (entry,) = status["sets"]
    assert entry["reason"] == "pinned to 1 on r0: no demand"
    kinds = [(line["kind"], line["adapter"]) for line in status["history"]]
    assert kinds == [("prefetch", "a"), ("replica_joined", "")]
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
    assert bench.tick(110.0, "r0", **follows).sets == ()


def test_observe_says_what_it_would_do_and_sends_nothing(build, infos) -> None:
    bench = Bench(build, infos, policy_of(2, PIN_A, mode="observe"))
    for at in (100.0, 101.0, 102.0):
        actions = bench.tick(at, "r0", "r1")
        assert (actions.replica_plans, actions.moves) == ((), ()), "nothing moves"
        assert [one.aliases for one in actions.sets] == [("a",)]
    assert bench.kinds().count("would_prefetch") == 2, "it is said once of each replica"
    assert "prefetch" not in bench.kinds()
    (copies,) = [line.message for line in bench.reconciler.history if line.kind == "copies"]
    assert copies.startswith("observed only: copies 1 -> 2: ")
    status = bench.reconciler.status(102.0)
    assert status["replicas"]["r0"]["desired"] == []
    assert status["modes"] == {"replicas": "on", "placement": "observe"}
    bench.policy = policy_of(2, PIN_A)
    assert len(bench.tick(103.0, "r0", "r1").moves) == 2
    assert bench.kinds().count("prefetch") == 2, "it is said again when it happens"


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


def test_a_late_plan_comes_into_force_with_a_later_tick(build, infos) -> None:
    bench = Bench(build, infos, policy_of(1, PIN_A))
    serve = ServeCounts(1, 1, 0)
    late, plans = None, []
    for second in range(4):
        at = 100.0 + second
        bench.hear(at)
        inputs = bench.reconciler.begin_tick(infos, bench.policy, serve, at, WALL)
        late = late or inputs
        made = plan(late) if second == 2 else None
        actions = bench.reconciler.finish_tick(made, at, WALL)
        assert actions.replica_count == 1
        plans.append([digest for told in actions.replica_plans for digest in told.desired])
    assert plans == [[], [], ["digest-a"], []]
    assert len(actions.sets) == 1, "the last plan stands"
    assert actions.moves == ()
