"""The replica count, look by look."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.domain.ids import AdapterDigest
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.demand import Demand
from cluster.placement.demand.work_model import operating_batch, work_model
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, ScheduleEntry
from cluster.placement.scaling.count import CountScaler
from cluster.placement.scaling.inputs import ReplicaShape
from cluster.placement.scaling.schedule import bounds_at, holds
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_looks import COSTLY, demand, inputs, settle
from tests.support.scale_loop import MONDAY, SHAPE, WIDE, ScaleLoop


def test_load_adds_after_the_time_and_not_before() -> None:
    scaler, given = CountScaler(), inputs(demand(2.5, "a"))
    first = scaler.decide(given, 100.0)
    assert (first.count, first.wishes["load"]) == (1, 3)
    assert first.reason == "1: work of 1.75 replicas at target 0.7 asks for 3, in 10 s"
    assert scaler.decide(given, 109.0).count == 1
    assert scaler.decide(given, 110.0).reason == "1 -> 3: work of 1.75 replicas at target 0.7"


def test_the_least_wish_of_that_time_is_granted() -> None:
    scaler = CountScaler()
    for second, rate in enumerate([4.5, 1.5, 4.5]):
        scaler.decide(inputs(demand(rate, "a")), 5.0 * second)
    assert scaler.decide(inputs(demand(4.5, "a")), 15.0).count != 1
    scaler = CountScaler()
    for second, rate in enumerate([4.5, 1.5, 4.5, 4.5]):
        decision = scaler.decide(inputs(demand(rate, "a")), 4.0 * second)
    assert decision.count == 2


def test_a_step_is_as_long_as_the_policy_says() -> None:
    decision = settle(CountScaler(), inputs(demand(9.0, "a")), 11)
    assert decision.count == 5


def test_fewer_only_after_they_were_enough_at_every_look() -> None:
    scaler, given = CountScaler(), inputs(demand(0.5, "a"), target=3)
    assert settle(scaler, given, 300).count == 3
    decision = scaler.decide(given, 300.0)
    assert decision.count == 2
    busy = replace(given, demand=Demand((demand(2.4, "a"),)))
    scaler = CountScaler()
    for second in range(900):
        decision = scaler.decide(busy if second % 290 == 0 else given, float(second))
    assert decision.count == 3


def test_while_replicas_are_drained_no_more_are() -> None:
    scaler, given = CountScaler(), inputs(demand(0.1, "a"), target=4)
    for second in range(1000):
        decision = scaler.decide(given, float(second))  # Serve's target stays at 4
    assert decision.count == 3
    busy = replace(given, demand=Demand((demand(9.0, "a"),)))
    for second in range(1000, 1012):
        decision = scaler.decide(busy, float(second))
    assert decision.count == 7, "more are wanted than are drained"


def test_nothing_shrinks_before_every_replica_has_reported() -> None:
    given = inputs(demand(0.1, "a"), target=20, complete=False)
    decision = settle(CountScaler(), given, 700)
    assert decision.count == 20
    assert "not every replica has reported" in decision.reason


def test_a_late_start_stops_all_but_the_queue() -> None:
    model = replace(COSTLY, start_s=10.0)
    given = replace(inputs(demand(2.5, "a")), model=model, starting_for_s=21.0)
    decision = settle(CountScaler(), given, 60)
    assert decision.count == 1
    assert "a start takes 21 s already" in decision.reason
    given = replace(given, backlog_s=25.0, predicted_ttft={"standard": 9.0})
    assert settle(CountScaler(), given, 11).count == 4


def test_the_queue_asks_once_and_not_at_every_look() -> None:
    given = replace(inputs(demand(0.1, "a")), backlog_s=50.0, predicted_ttft={"standard": 9.0})
    scaler = CountScaler()
    counts = []
    for second in range(40):
        decision = scaler.decide(given, float(second))
        given = replace(given, target=decision.count)  # none is ready yet
        counts.append(decision.count)
    assert counts[9] == 1
    assert counts[10] == counts[-1] == 3


def test_no_queue_wish_where_no_number_keeps_the_promise() -> None:
    given = replace(
        inputs(demand(0.1, "a", prompt=4000.0)), backlog_s=50.0, predicted_ttft={"standard": 40.0}
    )
    assert settle(CountScaler(), given, 60).wishes["queue"] == 0


def test_the_mode_observe_changes_nothing_and_says_what_it_would() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=12, mode="observe"))
    given = replace(inputs(demand(2.5, "a")), policy=policy)
    scaler = CountScaler()
    decisions = [scaler.decide(given, float(second)) for second in range(30)]
    assert {decision.count for decision in decisions} == {1}
    assert any("observed only: 1 -> 3" in decision.reason for decision in decisions)


def test_the_mode_off_keeps_min() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=2, max=12, mode="off"))
    given = replace(inputs(demand(9.0, "a"), target=5), policy=policy)
    assert CountScaler().decide(given, 0.0).count == 2


def test_the_mode_off_keeps_the_schedules_min() -> None:
    monday = ScheduleEntry.model_validate({"days": "mon", "min": 4})
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=2, max=12, mode="off", schedule=(monday,)))
    given = replace(inputs(target=5), policy=policy, wall=MONDAY)
    assert CountScaler().decide(given, 0.0).count == 4
    later = replace(given, wall=MONDAY + timedelta(days=1))
    assert CountScaler().decide(later, 0.0).count == 2


def test_pins_and_bounds_hold_at_once() -> None:
    assert CountScaler().decide(inputs(target=1, least=3), 0.0).count == 3
    assert CountScaler().decide(inputs(target=1, least=99), 0.0).count == 12
    assert CountScaler().decide(inputs(target=40), 0.0).count == 12


def test_the_first_replicas_are_for_what_waits() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=12, zero_after=60.0))
    given = replace(inputs(demand(3.0, "a"), target=0), policy=policy, in_flight=9)
    decision = CountScaler().decide(given, 0.0)
    assert (decision.count, decision.reason) == (3, "0 -> 3: a request came")


@pytest.mark.parametrize("shape", [SHAPE, None])
def test_the_first_replicas_of_a_schedule_are_for_it_alone(shape: ReplicaShape | None) -> None:
    monday = ScheduleEntry.model_validate({"days": "mon", "min": 6})
    replicas = ReplicasPolicy(min=0, max=12, zero_after=60.0, schedule=(monday,))
    policy = ClusterPolicy(replicas=replicas)
    given = replace(inputs(target=0), policy=policy, wall=MONDAY, shape=shape)
    assert CountScaler().decide(given, 0.0).reason == "0 -> 6: at least 6 must run"
    given = replace(given, wall=MONDAY + timedelta(days=1), in_flight=1)
    assert CountScaler().decide(given, 0.0).reason == "0 -> 1: a request came"


NIGHT = ScheduleEntry.model_validate({"days": "fri", "from": "22:00", "to": "06:00", "min": 3})


@pytest.mark.parametrize(
    ("day", "hour", "expected"),
    [(4, 21, False), (4, 22, True), (5, 5, True), (5, 6, False), (5, 23, False), (4, 5, False)],
)
def test_an_entry_past_midnight_belongs_to_the_day_before(day, hour, expected) -> None:
    assert holds(NIGHT, MONDAY + timedelta(days=day, hours=hour)) is expected


def test_entries_go_by_their_zones_clock() -> None:
    entry = ScheduleEntry.model_validate(
        {"days": "mon-fri", "from": "07:30", "to": "19:00", "zone": "Europe/Berlin", "min": 1}
    )
    assert holds(entry, datetime(2026, 7, 1, 5, 30, tzinfo=UTC))  # summer time
    assert not holds(entry, datetime(2026, 12, 1, 5, 30, tzinfo=UTC))
    assert holds(entry, datetime(2026, 12, 1, 6, 30, tzinfo=UTC))


def test_a_later_entry_wins_and_the_most_wins_over_the_least() -> None:
    day = {"days": "mon", "min": 4}
    policy = ReplicasPolicy(
        min=1,
        max=6,
        schedule=(
            ScheduleEntry.model_validate(day),
            ScheduleEntry.model_validate({"days": "mon", "max": 2}),
        ),
    )
    assert bounds_at(policy, MONDAY) == (2, 2)
    assert bounds_at(policy, MONDAY + timedelta(days=1)) == (1, 6)


def test_the_batch_fits_the_strictest_tier() -> None:
    step = StepCost(0.02, 0.0, 0.001, 0.0001, 0.0)
    assert operating_batch(step, itl_s=0.08, most=64, context_blocks=10.0) == 30
    assert operating_batch(step, itl_s=0.08, most=16, context_blocks=10.0) == 16
    assert operating_batch(step, itl_s=0.001, most=16, context_blocks=10.0) == 1
    assert operating_batch(StepCost(0.02, 0.0, 0.0), itl_s=0.08, most=16, context_blocks=0) == 16


def test_work_is_what_the_cost_model_says() -> None:
    step = StepCost(0.02, 0.001, 0.002, 0.0001, 1e-9)
    rate = demand(2.0, "a")._replace(prompt_tokens=160.0, generated_tokens=32.0)
    model = work_model(
        CostModel(step=step),
        Demand((rate,)),
        itl_s=10.0,
        max_batch_size=10,
        block_size=16,
        adapter_bytes={AdapterDigest("a"): 10_000_000},
    )
    token = 0.02 / 10 + 0.002 + 0.0001 * 11 + 1e-9 * 1e7 / 10
    assert model.request_seconds(rate) == pytest.approx(0.16 + 32 * token)


def test_answers_that_wait_are_queued_work_as_prompts_are() -> None:
    """Short prompts with long answers wait: hardly any prompt token is queued."""
    loop = ScaleLoop(WIDE, CostModel(), count=1)
    rate = demand(2.0, "a", prompt=20.0)._replace(generated_tokens=200.0)
    given = loop.inputs(
        Demand((rate,)), predicted_ttft={"standard": 30.0}, backlog_s=1.6, queued=100
    )
    needs = needs_of(given, SHAPE)
    assert needs.queue(needs.missed()).count == 1 + 2  # 49 s, less 2 s, in starts of 30 s
    for waits in ({"queued": 0}, {"predicted_ttft": {"standard": 1.0}}):
        needs = needs_of(replace(given, **waits), SHAPE)
        assert needs.queue(needs.missed()).count == 0


def test_steps_that_cost_nothing_predict_no_time_and_break_nothing() -> None:
    free = CostModel(step=StepCost(0.0, 0.0, 0.0, 0.0, 1e-9))
    waits = {"standard": 1.0}
    given = replace(inputs(demand(2.5, "a"), target=3), model=free, predicted_ttft=waits)
    assert settle(CountScaler(), given, 301).count == 2


def test_a_first_start_is_let_finish_though_those_who_asked_could_not_wait() -> None:
    """A start takes 120 s, a request is held for 30 s, and replicas end after 60 s without any."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=60.0))
    given = replace(inputs(target=0), policy=policy, model=replace(COSTLY, start_s=120.0))
    scaler, counts = CountScaler(), {}
    for second in range(240):
        held, starting = int(second < 30), second if second < 120 else None
        seen = replace(
            given, in_flight=held, starting_for_s=starting, ready=int(second >= 120), target=1
        )
        counts[second] = scaler.decide(seen if second else replace(seen, target=0), second).count
    assert {second for second, count in counts.items() if count == 0} == set(range(180, 240))


def test_costs_that_nobody_measured_neither_add_nor_remove_by_load() -> None:
    guessed = replace(COSTLY, measured=False)
    for rate in (9.0, 0.01):
        given = replace(inputs(demand(rate, "a"), target=3), model=guessed)
        decision = settle(CountScaler(), given, 700)
        assert decision.reason == "3: costs are not measured yet"
    waits = {"predicted_ttft": {"standard": 9.0}, "backlog_s": 50.0}
    enough = replace(given, **waits, ready=1)  # the others come and work it off
    scaler = CountScaler()
    decision = [scaler.decide(enough, float(second)) for second in range(60)][-1]
    assert decision.wishes["queue"] == decision.wishes["load"] == 3
    assert decision.reason == "3: standard waits 9.0 s; 50 s of work queued"
    assert settle(CountScaler(), replace(given, **waits), 11).count == 5
    assert settle(CountScaler(), replace(given, demand=Demand()), 301).count == 2
