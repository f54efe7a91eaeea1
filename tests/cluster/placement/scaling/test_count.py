"""The replica count, look by look."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.domain.ids import AdapterDigest
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.demand import Demand, DemandRate
from cluster.placement.demand.work_model import operating_batch, work_model
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, ScheduleEntry
from cluster.placement.scaling.count import CountScaler, ScaleInputs
from cluster.placement.scaling.memory import PoolShape, cold_curve
from cluster.placement.scaling.schedule import bounds_at, holds
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_loop import MONDAY, SHAPE, ScaleLoop, key

POLICY = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=12))
COSTLY = CostModel(step=StepCost(0.0, 0.007, 0.0, 0.0, 0.0))  # .7 s for 100 prompt tokens


def demand(rate: float, *adapters: str, tenant: str = "acme", prompt: float = 100.0) -> DemandRate:
    which = key(tenant, *adapters)
    return DemandRate(which, rate, rate, rate, prompt, 0.0, fast=rate, slow=rate)


def inputs(*rates: DemandRate, target: int = 1, **changes: object) -> ScaleInputs:
    loop = ScaleLoop(POLICY, COSTLY, count=target)
    return loop.inputs(Demand(rates), **changes)


def settle(scaler: CountScaler, given: ScaleInputs, seconds: int, begin: float = 0.0):
    for second in range(seconds):
        decision = scaler.decide(given, begin + second)
        given = replace(given, target=decision.count, ready=decision.count)
    return decision


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


def test_a_working_set_that_does_not_fit_adds_replicas_and_says_so() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(32)]
    sizes = {AdapterDigest(f"a{number}"): 10_000_000 for number in range(32)}
    given = replace(inputs(*rates, target=3), adapter_bytes=sizes)
    decision = settle(CountScaler(), given, 11)
    assert decision.count == 5  # 40 slots, of which 4 are kept free
    assert decision.reason == (
        "3 -> 5: working set 320 MB in 32 sets, pools 240 MB and 24 slots, 31 % cold above 2 %"
    )
    assert needs_of(given, SHAPE).load(1).count == 2


def tailed(share: float, hot: int = 4, tail: int = 10_000) -> tuple[DemandRate, ...]:
    """Return 10 requests a second, a share of them on a long tail of adapters."""
    rates = [
        demand(10.0 * (1.0 - share) / hot, f"hot{number}", prompt=0.0) for number in range(hot)
    ]
    each = 10.0 * share / tail
    return (*rates, *(demand(each, f"tail{number}", prompt=0.0) for number in range(tail)))


def test_a_tail_that_no_count_can_hold_adds_none_for_fractions_of_a_percent() -> None:
    given = inputs(*tailed(0.03))
    decision = CountScaler().decide(given, 0.0)
    assert (decision.count, decision.wishes["memory"]) == (1, 1)
    assert decision.reason == (
        "1: no count up to 12 brings cold requests below 2 %, and 1 comes within 2 points of the "
        "best"
    )
    scaler, high = CountScaler(), replace(given, target=12, ready=12)
    counts = [scaler.decide(high, at).count for at in (0.0, 150.0, 299.0, 300.0)]
    assert counts == [12, 12, 12, 11], "nor does it keep any"


def test_where_no_count_suffices_what_comes_near_the_best_is_asked_for() -> None:
    given = inputs(*tailed(0.03, hot=24))
    assert settle(CountScaler(), given, 60).count == 4, "24 fit into 32 slots, 3 of them spare"
    even = [demand(0.1, f"a{number}", prompt=0.0) for number in range(120)]
    decision = settle(CountScaler(), inputs(*even, target=8), 60)
    assert decision.count == 12, "each replica holds 6 % of the requests' adapters"


def test_adapters_that_fit_are_moved_and_add_nothing() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(16)]
    given = replace(inputs(*rates, target=3), cold=0.5)
    assert needs_of(given, SHAPE).memory(3).reason == "adapters fit"
    assert settle(CountScaler(), given, 60).count == 3


def test_a_measured_share_above_the_predicted_one_counts_up_to_three_times() -> None:
    rates = [demand(1.0, f"a{number}") for number in range(8)]
    rates += [demand(0.05, f"b{number}") for number in range(3)]
    given = replace(inputs(*rates, target=1), cold=0.017)
    (few, many) = (needs_of(replace(given, cold=cold), SHAPE) for cold in (None, 0.9))
    assert (few.factor, many.factor) == (1.0, 3.0)
    assert few.curve.cold(1) < 0.02 < 3.0 * many.curve.cold(1)
    assert (few.memory(1).count, many.memory(1).count) == (1, 2)


def test_an_adapter_that_fits_nowhere_adds_nothing() -> None:
    given = replace(
        inputs(demand(1.0, "huge"), demand(0.1, "a")),
        adapter_bytes={AdapterDigest("huge"): 2 * SHAPE.adapter_bytes},
    )
    assert needs_of(given, SHAPE).memory(1).count == 1


def test_big_adapters_do_not_share_a_pool() -> None:
    rates = [demand(0.1, f"a{number}") for number in range(6)]
    for share, pools in ((0.6, 6), (0.4, 3), (0.1, 1)):
        sizes = {AdapterDigest(f"a{number}"): int(share * 1e6) for number in range(6)}
        curve = cold_curve(Demand(tuple(rates)), PoolShape(32, 1_000_000), sizes)
        assert curve.least(0.0, 40) == pools


def test_members_that_sets_share_count_once() -> None:
    rates = [demand(1.0, "a", f"b{number}") for number in range(7)]
    curve = cold_curve(Demand(tuple(rates)), PoolShape(8, 1), {})
    assert curve.cold(1) == 0.0


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


def test_pins_and_bounds_hold_at_once() -> None:
    assert CountScaler().decide(inputs(target=1, least=3), 0.0).count == 3
    assert CountScaler().decide(inputs(target=1, least=99), 0.0).count == 12
    assert CountScaler().decide(inputs(target=40), 0.0).count == 12


def test_the_first_replicas_are_for_what_waits() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=12, zero_after=60.0))
    given = replace(inputs(demand(3.0, "a"), target=0), policy=policy, in_flight=9)
    assert CountScaler().decide(given, 0.0).count == 3


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
    rate = replace(demand(2.0, "a"), prompt_tokens=160.0, generated_tokens=32.0)
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
    loop = ScaleLoop(POLICY, CostModel(), count=1)
    rate = replace(demand(2.0, "a", prompt=20.0), generated_tokens=200.0)
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
    """A start takes 120 s, a request is held for 30 s, and 60 s without any let replicas go."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=60.0))
    given = replace(inputs(target=0), policy=policy)
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
        assert decision.reason == "3: costs are not measured yet, and nothing waits too long"
    waits = {"predicted_ttft": {"standard": 9.0}, "backlog_s": 50.0}
    assert settle(CountScaler(), replace(given, **waits), 11).count == 5
    assert settle(CountScaler(), replace(given, demand=Demand()), 301).count == 2


def test_memory_is_known_without_costs() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(32)]
    given = replace(inputs(*rates, target=3), model=replace(COSTLY, measured=False))
    assert settle(CountScaler(), given, 11).count == 5
