"""The reports of a front to the controller, with real counters on both sides."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import ReplicaChoice
from cluster.placement.demand.demand import DemandKey
from cluster.placement.demand.rates import DemandRates
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.front_reporter import REPORT_PAUSE_S
from cluster.placement.policy import PickingPolicy
from deployments.front.requests.exchange import Exchange
from deployments.front.requests.front_demand import FrontDemand
from tests.support.manual_clock import ManualClock

ACME = TenantId("acme")


class Hearing:
    """Takes reports in as a controller does, unless it is silent."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.epoch = 1
        self.away = self.deaf = False
        self.knows_policy = True
        self.reports: list[FrontReport] = []
        self.rates = DemandRates()
        self.heard = asyncio.Event()

    def restart(self) -> None:
        self.epoch += 1
        self.rates = DemandRates()

    async def __call__(self, report: FrontReport) -> FrontOrders:
        if self.away:
            raise ConnectionError("away")
        self.reports.append(report)
        self.heard.set()
        self.rates.observe(report.front, report.demand, self.clock.monotonic())
        if self.deaf:
            raise TimeoutError
        if not self.knows_policy:
            return FrontOrders(report.sequence, self.epoch, fronts=9, knows_policy=False)
        return FrontOrders(
            report.sequence,
            self.epoch,
            picking=PickingPolicy(bound=2.0),
            tiers={"acme": "gold"},
            weights={"gold": 3.0},
            hold_s=7.0,
            zero=True,
            policy_version=4,
        )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def exchange_of(hearing: Hearing, clock: ManualClock) -> tuple[Exchange, FrontDemand]:
    demand = FrontDemand(clock)
    first = FrontOrders(0, 0)
    return Exchange(FrontId("f"), hearing, demand, clock, first=first, interval_s=30.0), demand


def ask(demand: FrontDemand, *adapters: str, n: int = 1, tokens: int = 5) -> None:
    digests = tuple(AdapterDigest(one) for one in adapters)
    decided = SimpleNamespace(decision=SimpleNamespace(digests=digests))
    demand.arrive(ACME, decided, [tuple(range(tokens))], n)  # type: ignore[arg-type]


async def test_requests_are_counted_by_set_and_told_once(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, demand = exchange_of(hearing, clock)
    ask(demand, "b", "a", "b", n=3)
    ask(demand)
    await exchange.report()
    clock.advance(1.0)
    await exchange.report()
    told = {total.key: total for total in hearing.reports[0].demand}
    pair = told[DemandKey(ACME, (AdapterDigest("a"), AdapterDigest("b")))]
    assert (pair.arrived, pair.prompt_tokens) == (3, 5)  # the prompt is computed once
    assert told[DemandKey(ACME, ())].arrived == 1
    assert hearing.reports[1].demand == ()


async def test_a_controller_that_is_away_or_answers_into_the_void_loses_nothing(
    clock: ManualClock,
) -> None:
    hearing = Hearing(clock)
    exchange, demand = exchange_of(hearing, clock)
    for number in range(20):
        ask(demand, "a")
        hearing.away, hearing.deaf = number % 3 == 1, number % 3 == 2
        await exchange.report()
        assert (exchange.error is None) == (number % 3 == 0)
        clock.advance(1.0)
    hearing.away = hearing.deaf = False
    await exchange.report()
    assert hearing.rates.demand(clock.monotonic()).arrived == 20


async def test_a_new_controller_hears_everything_again(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, demand = exchange_of(hearing, clock)
    for _ in range(60):
        ask(demand, "a")
        await exchange.report()
        clock.advance(1.0)
    hearing.restart()
    await exchange.report()
    await exchange.report()
    assert hearing.rates.demand(clock.monotonic()).fast == pytest.approx(1.0, rel=0.1)


async def test_the_orders_of_a_controller_that_was_replaced_are_not_followed(
    clock: ManualClock,
) -> None:
    hearing = Hearing(clock)
    exchange, _ = exchange_of(hearing, clock)
    hearing.epoch = 5
    await exchange.report()
    hearing.epoch = 4
    await exchange.report()
    assert exchange.orders.epoch == 5


@pytest.mark.parametrize("epoch", [0, 2])
async def test_a_controller_that_knows_no_policy_leaves_the_one_before_in_force(
    clock: ManualClock, epoch: int
) -> None:
    hearing = Hearing(clock)
    exchange, _ = exchange_of(hearing, clock)
    await exchange.report()
    before = exchange.orders
    hearing.epoch, hearing.knows_policy = epoch, False
    await exchange.report()
    orders = exchange.orders
    assert orders == replace(before, acknowledged=2, epoch=epoch, fronts=9, knows_policy=False), (
        "all else is the new controller's"
    )
    assert orders.tier_weight(ACME) == 3.0
    await exchange.report()
    assert hearing.reports[-1].policy_version == 4


async def test_the_dead_are_told_until_they_are_heard_of(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, _ = exchange_of(hearing, clock)
    exchange.note_dead(ReplicaId("r1"))
    hearing.deaf = True
    await exchange.report()
    hearing.deaf = False
    await exchange.report()
    await exchange.report()
    assert [report.dead for report in hearing.reports] == [("r1",), ("r1",), ()]


async def test_followers_get_the_orders_and_picks_are_told_by_tier(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, demand = exchange_of(hearing, clock)
    seen: list[int] = []
    exchange.on_orders(lambda orders: seen.append(orders.epoch))
    await exchange.report()
    assert seen == [0, 1]
    for number, ttft in enumerate((0.1, 0.5, 0.3, 0.2)):
        choice = ReplicaChoice(
            ReplicaId("r"),
            cost=ttft,
            terms=(),
            predicted_ttft=ttft,
            whole=number == 3,
            decided_by="cost",
            considered=1,
            snapshot_age=0.0,
        )
        demand.note_pick(ACME, choice)
    await exchange.report()
    last = hearing.reports[-1]
    assert (last.predicted_ttft, last.cold, last.picked) == ({"gold": 0.25}, 3, 4)
    clock.advance(31.0)
    await exchange.report()
    assert hearing.reports[-1].predicted_ttft == {}  # picks so old say nothing


async def test_it_reports_at_once_when_asked(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, _ = exchange_of(hearing, clock)
    exchange.start()
    async with asyncio.timeout(20):
        await hearing.heard.wait()
        hearing.heard.clear()
        exchange.now()
        await hearing.heard.wait()
    await exchange.close()
    assert [report.sequence for report in hearing.reports] == [1, 2]


async def test_a_crowd_that_calls_for_reports_gets_few(clock: ManualClock) -> None:
    hearing = Hearing(clock)
    exchange, _ = exchange_of(hearing, clock)
    loop = asyncio.get_running_loop()
    began = loop.time()
    exchange.start()
    for _ in range(200):
        exchange.now()
        await asyncio.sleep(0)
    while len(hearing.reports) < 3:
        exchange.now()
        await asyncio.sleep(0)
    took = loop.time() - began
    await exchange.close()
    assert len(hearing.reports) <= took / REPORT_PAUSE_S + 1
