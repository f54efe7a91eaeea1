"""Ticks with a policy that is not known yet: on a real store, and with Serve's written answers."""

from collections.abc import AsyncIterator

import pytest

from cluster.config import AppConfig
from cluster.placement.control.attendance import PATIENCE_S
from cluster.placement.exchange import FrontId, FrontReport
from cluster.placement.policy.policy_store import PolicyStore
from cluster.placement.policy.policy_versions import PolicyDraft
from deployments import replica_calls
from deployments.controller.control_loop import ControlLoop
from deployments.controller.controller_state import ControllerState
from deployments.controller.cost_priors import CostPriors
from deployments.controller.policy_follower import PolicyFollower
from deployments.controller.serve_target import ServeTarget
from deployments.replica_calls import ReplicaCalls
from tests.support.manual_clock import ManualClock
from tests.support.policy_follower_rig import Make
from tests.support.written_serve import WrittenServe

pytestmark = [pytest.mark.redis]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> WrittenServe:
    async def nobody(handle: object) -> frozenset[str]:
        return frozenset()

    monkeypatch.setattr(replica_calls, "listed_replicas", nobody)
    return WrittenServe(monkeypatch)


@pytest.fixture
def follower(make: Make) -> PolicyFollower:
    return make()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def loop(
    redis_url: str, serve: WrittenServe, follower: PolicyFollower, clock: ManualClock
) -> AsyncIterator[ControlLoop]:
    state, priors = ControllerState(redis_url), CostPriors(AppConfig(), "a" * 64, redis_url)
    made = ControlLoop(
        replicas=ReplicaCalls(None),  # type: ignore[arg-type] # nobody is listed
        serve=ServeTarget("braid"),
        state=state,
        priors=priors,
        policy=follower,
        catalog=lambda: (),
        clock=clock,
        interval_s=1.0,
    )
    yield made
    await made.close()
    await state.close()
    await priors.close()


async def ticks(loop: ControlLoop, clock: ManualClock) -> None:
    """Run ticks until replicas that never report are waited for no more."""
    for _ in range(3):
        await loop._tick()
        clock.advance(PATIENCE_S)


async def test_a_controller_that_leads_before_it_knows_the_policy_changes_nothing(
    loop: ControlLoop,
    serve: WrittenServe,
    follower: PolicyFollower,
    store: PolicyStore,
    clock: ManualClock,
) -> None:
    await store.commit(PolicyDraft("replicas: {min: 12, max: 12}", "ann", "many"))
    serve.target = 12
    await loop.begin()
    report = FrontReport(FrontId("f"), 1)
    assert not loop.exchange(report).knows_policy
    await ticks(loop, clock)
    assert loop.status()["standing"] == "leads"
    await loop.start_first()
    assert serve.sets == []
    orders = loop.exchange(report)
    assert (orders.epoch, orders.knows_policy, orders.policy_version) == (1, False, 0)
    await follower.sync()
    await ticks(loop, clock)
    assert (serve.sets, serve.target) == ([], 12)
    orders = loop.exchange(report)
    assert (orders.knows_policy, orders.policy_version) == (True, 1)


async def test_defaults_that_are_known_to_be_in_force_are_acted_on(
    loop: ControlLoop, serve: WrittenServe, follower: PolicyFollower, clock: ManualClock
) -> None:
    await follower.sync()
    serve.target = 12
    await loop.begin()
    await ticks(loop, clock)
    assert serve.target == 3
