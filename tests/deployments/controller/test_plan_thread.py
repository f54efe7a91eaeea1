"""A plan that takes longer than a tick, made in a real thread."""

import asyncio
import threading
from dataclasses import replace

import pytest

from cluster.placement.planning.plan import Plan, PlanInputs
from cluster.placement.planning.planner import plan
from cluster.placement.planning.rules import PlanningRules
from deployments.controller import plan_thread
from deployments.controller.plan_thread import PlanThread
from tests.support.planning_cases import demand_of, inputs_of, room_of

R0, R1 = room_of("r0"), room_of("r1")
FIRST = replace(inputs_of([R0], demand_of()), rules=PlanningRules(weights={"acme": 1.0}))
SECOND = replace(FIRST, replicas=(R0, R1))


class SlowPlanner:
    """The planner, once it is set off."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[PlanInputs] = []

    def __call__(self, inputs: PlanInputs) -> Plan:
        self.asked.append(inputs)
        if not self.go.wait(60.0):
            raise TimeoutError
        if inputs is SECOND:
            raise RuntimeError("no plan")
        return plan(inputs)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowPlanner:
    monkeypatch.setattr(plan_thread, "PLAN_S", 0.01)
    return SlowPlanner()


async def finished(plans: PlanThread) -> None:
    assert plans._under_way is not None
    await asyncio.wait({plans._under_way})


async def made(plans: PlanThread, inputs: PlanInputs) -> Plan | None:
    """Ask, and once more if it took longer than the first tick waits."""
    found = await plans.ask(inputs)
    if found is None:
        await finished(plans)
        found = await plans.ask(inputs)
    return found


async def test_ticks_do_not_wait_for_a_late_plan_and_take_it_when_it_is_there(
    slow: SlowPlanner,
) -> None:
    plans = PlanThread(slow)
    assert [await plans.ask(inputs) for inputs in (FIRST, SECOND, SECOND)] == [None] * 3
    slow.go.set()
    await finished(plans)
    assert await plans.ask(SECOND) == plan(FIRST)
    assert slow.asked == [FIRST], "one at a time"


@pytest.mark.parametrize("voided", [FIRST, SECOND])
async def test_a_plan_that_is_not_wanted_any_more_is_void(
    slow: SlowPlanner, voided: PlanInputs
) -> None:
    """Its end is awaited first, as a plan or as a failure: no second one runs meanwhile."""
    plans = PlanThread(slow)
    assert await plans.ask(voided) is None
    assert await plans.ask(None) is None
    assert await plans.ask(FIRST) is None
    assert slow.asked == [voided], "one at a time"
    slow.go.set()
    await finished(plans)
    assert await made(plans, FIRST) == plan(FIRST)
    assert slow.asked == [voided, FIRST]


@pytest.mark.parametrize(
    "now",
    [
        replace(FIRST, replicas=(R1,)),
        replace(FIRST, rules=PlanningRules(target=0.5)),
        replace(FIRST, pins={"a": 1}),
        replace(FIRST, rules=PlanningRules(weights={"acme": 2.0})),
    ],
)
async def test_a_late_plan_is_dropped_where_a_replica_leaves_or_the_policy_is_another(
    slow: SlowPlanner, now: PlanInputs
) -> None:
    plans = PlanThread(slow)
    assert await plans.ask(FIRST) is None
    slow.go.set()
    await finished(plans)
    assert await made(plans, now) == plan(now)
    assert slow.asked == [FIRST, now]


async def test_tenants_that_come_and_go_leave_a_late_plan_in_force(slow: SlowPlanner) -> None:
    before, now = (
        replace(FIRST, rules=PlanningRules(weights=weights))
        for weights in ({"acme": 2.0, "gone": 1.0}, {"acme": 2.0, "new": 3.0})
    )
    plans = PlanThread(slow)
    assert await plans.ask(before) is None
    slow.go.set()
    await finished(plans)
    assert await plans.ask(now) == plan(before)
    assert slow.asked == [before]


async def test_a_planner_that_fails_is_asked_again(slow: SlowPlanner) -> None:
    slow.go.set()
    plans = PlanThread(slow)
    with pytest.raises(RuntimeError, match="no plan"):
        await made(plans, SECOND)
    assert await made(plans, FIRST) == plan(FIRST)
