"""Holds requests at a front without a replica, and what the controller hears of them."""

import asyncio
from typing import Any

import pytest

from cluster.domain.ids import TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import Overloaded, Starting
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy
from cluster.tenancy.waiting_places import WaitingPlaces
from cluster.waiting.holding import Holding
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.exchange import Exchange
from deployments.front.requests.front_demand import FrontDemand
from tests.support.manual_clock import ManualClock

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


class HoldingFront:
    """The parts of a front that hold requests, without a replica."""

    def __init__(self, **orders: Any) -> None:
        async def discover() -> list[ReplicaSnapshot]:
            return []

        async def send(report: FrontReport) -> FrontOrders:
            self.reports.append(report)
            return self.orders

        clock = ManualClock()
        self.reports: list[FrontReport] = []
        self.orders = FrontOrders(0, 1, **orders)
        self.places = WaitingPlaces(2)
        replicas = ReplicaSet(discover, Picker(PickingPolicy()), b"key", clock, interval_s=0.01)
        self.exchange = Exchange(
            FrontId("front"),
            send,
            FrontDemand(clock),
            clock,
            first=self.orders,
            held=lambda: self.holding.count_wishes(),
        )
        self.holding = Holding(replicas, lambda: self.exchange.orders, self.exchange.now)

    async def ask(self, tenant: TenantId, patience_s: float = 1e9) -> None:
        """Wait for a replica with a sequence of a tenant."""
        with self.places.place(tenant) as place:
            await self.holding.wait_for_replica(place, patience_s)

    async def held(self) -> int:
        """Return what the next report says is held."""
        await self.exchange.report()
        return self.reports[-1].held


async def test_a_request_that_cannot_wait_is_a_wish_in_one_report() -> None:
    front = HoldingFront(retry_after_s=20.0)
    assert await front.held() == 0
    with pytest.raises(Starting):
        await front.ask(ACME, patience_s=5)
    assert await front.held() == 1
    assert await front.held() == 0


async def test_requests_that_wait_are_wishes_in_every_report_until_they_leave() -> None:
    front = HoldingFront()
    asked = [asyncio.create_task(front.ask(tenant)) for tenant in (ACME, ACME, GLOBEX)]
    await asyncio.sleep(0)
    assert [await front.held(), await front.held()] == [3, 3]
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert await front.held() == 0
    assert len(front.places) == 0


async def test_a_tenant_that_holds_its_share_is_refused_with_the_time_of_a_start() -> None:
    front = HoldingFront(retry_after_s=7.2)
    asked = [asyncio.create_task(front.ask(tenant)) for tenant in (ACME, ACME, GLOBEX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refusal:
        await front.ask(ACME)
    assert refusal.value.retry_after_s == 8
    assert not any(task.done() for task in asked)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
