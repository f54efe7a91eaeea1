"""The right to act, with a real server that may be silent at the start."""

from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import redis

from cluster.config import AppConfig
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.work import StepTotals, WorkTotals
from cluster.placement.control.history import Change
from cluster.placement.control.pauses import DEMAND_S
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import DemandKey, DemandTotals
from cluster.placement.exchange import FrontId, FrontReport
from deployments.controller.controller_state import DEMAND, EPOCH, ControllerState
from deployments.controller.cost_priors import FIT, FIT_TTL_S, CostPriors
from deployments.controller.right_to_act import RightToAct
from tests.support.manual_clock import ManualClock

pytestmark = [pytest.mark.redis]

MODEL = "a" * 64
DEVICE, OTHER = "cpu: one, 2 threads", "cuda: big"
STEP_S = CostModel().step.per_step / 4
KEY = DemandKey(TenantId("acme"), (AdapterDigest("a"),))
LINE = Change(1.0, "replicas", "1 -> 2: an earlier life")


class Controller:
    """One life of a controller, as far as its right to act goes."""

    def __init__(self, redis_url: str, model: str = MODEL) -> None:
        self.clock = ManualClock()
        self.state = ControllerState(redis_url)
        self.reconciler = Reconciler(0, CostModel())
        self.priors = CostPriors(AppConfig(), model, redis_url)
        self.right = RightToAct(self.reconciler, self.state, self.priors, self.clock)

    @property
    def standing(self) -> str:
        return self.reconciler.leadership.words

    @property
    def rate(self) -> float:
        """Return the slow rate of all demand."""
        return self.reconciler._rates.demand(self.clock.monotonic()).slow

    async def close(self) -> None:
        await self.state.close()
        await self.priors.close()

    async def find_costs(self) -> CostModel:
        """Return the costs that it begins with."""
        await self.right.renew()
        return self.reconciler.costs.fit.model

    def hear_steps(
        self, steps: int, device: str = DEVICE, step_s: float = STEP_S, name: str = "r"
    ) -> None:
        work = WorkTotals(StepTotals(steps=steps, seconds=step_s * steps))
        said = ReplicaSnapshot(
            ReplicaId(name), "", 0, 0, 1, 1, 4, 1, 0, (), False, sequence=steps, work=work,
            device=device,
        )  # fmt: skip
        self.reconciler.hear_replica(said, self.clock.monotonic())

    def hear(self, front: str, sequence: int, arrived: int, age_s: float) -> None:
        totals = (DemandTotals(KEY, arrived, 10 * arrived, age_s=age_s),)
        report = FrontReport(FrontId(front), sequence, totals)
        self.reconciler.hear_front(report, self.clock.monotonic())


@pytest.fixture
async def earlier(redis_url: str) -> AsyncIterator[Controller]:
    """A controller that has served 4 requests per second for an hour, and left its state."""
    made = Controller(redis_url)
    made.hear_steps(0)
    assert not (await made.find_costs()).measured
    for second in range(1, 3600):
        made.clock.advance(1.0)
        made.hear("f", second, 4 * second, float(second))
    made.state.add_lines([LINE])
    made.hear_steps(100_000)
    await made.right.renew()
    yield made
    await made.close()


@pytest.fixture
async def later(redis_url: str, earlier: Controller) -> AsyncIterator[Controller]:
    made = Controller(redis_url)
    yield made
    await made.close()


@pytest.fixture
def process(empty_redis: redis.Redis) -> Iterator[psutil.Process]:
    found = psutil.Process(empty_redis.info("server")["process_id"])
    yield found
    found.resume()


async def test_a_new_life_begins_with_what_the_one_before_left(later: Controller) -> None:
    await later.right.renew()
    assert later.standing == "leads"
    assert later.rate == pytest.approx(4.0, rel=0.01)
    assert later.reconciler.history == (LINE,)


async def test_what_redis_had_is_restored_when_it_comes_back(
    later: Controller, process: psutil.Process
) -> None:
    process.suspend()
    await later.right.renew()
    assert "passive" in later.standing
    for second in range(1, 31):
        later.clock.advance(1.0)
        later.hear("g", second, 4 * second, float(second))
    assert later.rate < 1.0
    process.resume()
    await later.right.renew()
    assert later.standing == "leads"
    assert later.rate == pytest.approx(4.0, rel=0.01)
    assert LINE in later.reconciler.history


async def test_nobody_leads_before_the_state_was_read(
    later: Controller, earlier: Controller, redis_url: str
) -> None:
    """Redis answers one call and not the next: the demand it has is not written over."""
    with redis.Redis.from_url(redis_url) as client:
        kept = client.get(DEMAND)
        client.rename(DEMAND, "elsewhere")
        client.rpush(DEMAND, "not to be read")  # the call fails
        for _ in range(3):
            await later.right.renew()
            later.clock.advance(DEMAND_S)
        assert "passive" in later.standing
        assert client.get(EPOCH) == b"1"
        client.rename("elsewhere", DEMAND)
        await later.right.renew()
        assert later.standing == "leads"
        assert client.get(DEMAND) == kept
    assert later.rate == pytest.approx(4.0, rel=0.01)


async def test_a_state_that_cannot_be_understood_stops_nobody(later: Controller) -> None:
    assert await later.state.write(1, {"rates": [["acme"]]}) == 1
    await later.right.renew()
    assert (later.standing, later.rate) == ("leads", 0.0)


async def test_one_that_leads_again_keeps_its_own_demand(later: Controller) -> None:
    await later.right.renew()
    later.reconciler.leadership.learn(9)
    for _ in range(2):
        later.clock.advance(DEMAND_S)
        await later.right.renew()
    assert later.standing == "leads"
    assert later.rate == pytest.approx(4.0 * 2 ** (-20 / 240), rel=0.01)


async def test_a_new_life_knows_the_costs_though_no_replica_runs(later: Controller) -> None:
    await later.right.renew()
    found = await later.find_costs()
    assert found.measured
    assert found.step.per_step == pytest.approx(STEP_S, rel=0.01)


async def test_what_another_model_cost_is_not_used(earlier: Controller, redis_url: str) -> None:
    other = Controller(redis_url, model="b" * 64)
    await other.right.renew()
    found = await other.find_costs()
    assert (found.measured, found.step) == (False, CostModel().step)
    await other.close()


async def test_what_was_learnt_is_not_written_over_before_it_was_read(later: Controller) -> None:
    await later.right.renew()
    later.clock.advance(DEMAND_S)
    await later.right.renew()
    assert (await later.find_costs()).measured


async def test_what_was_learnt_on_one_device_is_neither_believed_nor_kept_as_anothers(
    later: Controller, earlier: Controller, redis_url: str
) -> None:
    await later.right.renew()
    assert (await later.find_costs()).measured, "of the device that replicas ran on last"
    later.hear_steps(0, OTHER, 5 * STEP_S)
    assert not (await later.find_costs()).measured, "a new device"
    for steps in (1, 1_001):
        later.hear_steps(steps, OTHER, 5 * STEP_S)
    later.clock.advance(DEMAND_S)
    await later.right.renew()
    again = Controller(redis_url)
    await again.right.renew()
    await again.find_costs()
    assert again.reconciler.costs.device == OTHER
    seconds = again.reconciler.costs.fit.describe()["step"]["observed_s"]
    assert seconds == pytest.approx(1_000 * 5 * STEP_S)
    await again.close()
    back = Controller(redis_url)
    await back.right.renew()
    back.hear_steps(0, DEVICE, name="old")
    assert (await back.find_costs()).measured, "of the first device"
    await back.close()


async def test_costs_take_few_bytes(earlier: Controller, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys(f"{FIT}:*")
        assert client.strlen(key) < 4_000, "each 10 s"


async def test_costs_that_nobody_learns_any_more_are_dropped(
    earlier: Controller, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys(f"{FIT}:*")
        client.persist(key)
        earlier.clock.advance(DEMAND_S)
        await earlier.right.renew()
        assert FIT_TTL_S - 60 < client.ttl(key) <= FIT_TTL_S
