"""Requests that wait for room in a queue: who wakes, in which order, and what that costs."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaChoice, ReplicaSnapshot
from cluster.errors import Overloaded, ReplicaLost
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy
from deployments.front.replicas.replica_set import ReplicaSet
from tests.support.manual_clock import ManualClock
from tests.support.scripted_link import ScriptedLink

NAMES = tuple(map(ReplicaId, ("r0", "r1", "r2")))
ACME, GLOBEX, NEW = map(TenantId, ("acme", "globex", "new"))
FULL = 4
WAIT_S = 30.0


class CountingPicker(Picker):
    """Counts how often it is asked."""

    asked = 0

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaChoice:
        self.asked += 1
        return super().pick(view, request, now)


class Storm:
    """A front whose replicas are full, and requests that wait there."""

    def __init__(self, names: Sequence[ReplicaId] = NAMES) -> None:
        async def discover() -> list[ReplicaSnapshot]:
            return []

        self.clock = ManualClock()
        self.picker = CountingPicker(PickingPolicy(max_queued=FULL))
        self.replicas = ReplicaSet(discover, self.picker, b"key", self.clock, interval_s=0.01)
        self.names = names
        self.replicas.places.follow(10_000)
        links: Any = {name: OpenLink(name, []) for name in names}
        self.replicas._links.update(links)
        self.served: list[str] = []
        self.waiting: list[asyncio.Task[None]] = []
        self._sequence = 0
        for name in names:
            self.says(name, FULL)

    def says(self, name: ReplicaId, queued: int, *, draining: bool = False) -> None:
        """Let a replica report."""
        self._sequence += 1
        snapshot = ReplicaSnapshot(
            name, "", queued, 1, 100, 100, 8, 0, 0, (), draining=draining,
            sequence=self._sequence, max_batch_size=1,
            backlog=tuple((tenant, 9) for tenant in (ACME, GLOBEX)),
        )  # fmt: skip
        self.replicas._on_snapshot(snapshot)

    async def arrives(self, count: int, tenant: TenantId = ACME, **fields: Any) -> None:
        """Let requests of a tenant come."""
        before = len(self.waiting)
        for number in range(before, before + count):
            request = PickRequest((), tenant, **fields)
            task = asyncio.create_task(self._serve(f"{tenant}-{number}", request))
            if set(request.exclude) == set(self.names):
                task.set_name("excluded")
            self.waiting.append(task)
        await settle()

    async def _serve(self, name: str, request: PickRequest) -> None:
        with self.replicas.places.place(request.tenant or ACME) as place:
            choice, _ = await self.replicas.pick(request, wait_s=WAIT_S, place=place)
        self.served.append(name)
        self.replicas.view.sent(RequestId(name), choice.replica_id, request, 0.0)

    async def close(self) -> None:
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        await self.replicas.close()


class OpenLink(ScriptedLink):
    """A link that is open."""

    open = True

    async def close(self) -> None:
        """Do nothing."""


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def storm() -> Any:
    found = Storm()
    yield found
    await found.close()


async def test_a_storm_costs_a_pick_for_each_request_that_is_sent(storm: Storm) -> None:
    await storm.arrives(2000)
    assert storm.picker.asked <= 2000
    storm.picker.asked = 0
    for _ in range(20):
        for name in NAMES:
            storm.says(name, FULL)
            storm.replicas._on_load(name, 1, FULL)
        await settle()
    assert storm.picker.asked == 0
    storm.says(NAMES[0], FULL - 3)
    storm.replicas._on_load(NAMES[1], 1, FULL - 2)
    await settle()
    assert len(storm.served) == 5
    assert storm.picker.asked == 5


async def test_tenants_take_turns_and_the_oldest_request_of_each_is_first(storm: Storm) -> None:
    await storm.arrives(6, ACME)
    await storm.arrives(2, GLOBEX)
    storm.says(NAMES[0], 0)
    await settle()
    assert storm.served == ["acme-0", "globex-6", "acme-1", "globex-7"]


async def test_who_comes_last_takes_no_room_of_those_who_wait(storm: Storm) -> None:
    await storm.arrives(3, ACME)
    storm.says(NAMES[0], FULL - 1)
    await storm.arrives(1, ACME)
    assert storm.served == ["acme-0"]
    storm.says(NAMES[0], FULL - 3)
    await settle()
    assert storm.served == ["acme-0", "acme-1", "acme-2", "acme-3"]


async def test_a_full_queue_takes_a_tenant_that_has_nothing_there(storm: Storm) -> None:
    await storm.arrives(3, ACME)
    await storm.arrives(5, NEW)
    assert storm.served == ["new-3", "new-4", "new-5"], "one at each replica"
    storm.says(NAMES[0], FULL - 1)
    await settle()
    assert storm.served[3:] == ["acme-0"]
    storm.says(NAMES[0], FULL - 1)
    await settle()
    assert storm.served[4:] == ["new-6"]


async def test_who_leaves_when_it_is_its_turn_hands_it_on(storm: Storm) -> None:
    await storm.arrives(3)
    storm.says(NAMES[0], FULL - 1)
    storm.waiting[0].cancel()  # released, and not yet run
    await settle()
    assert storm.served == ["acme-1"]
    storm.waiting[2].cancel()
    await settle()
    storm.says(NAMES[0], 0)
    await settle()
    assert storm.served == ["acme-1"]
    assert len(storm.replicas.places) == 0


async def test_requests_that_no_replica_takes_hold_up_nobody(storm: Storm) -> None:
    await storm.arrives(500, GLOBEX, exclude=NAMES)
    await storm.arrives(500, ACME)
    storm.picker.asked = 0
    for turn in range(30):
        storm.says(NAMES[turn % 3], FULL - 1)
        await settle()
    assert storm.served == [f"acme-{number}" for number in range(500, 530)]
    assert storm.picker.asked <= 3 * 30


async def test_a_request_that_one_replica_failed_waits_for_another(storm: Storm) -> None:
    storm.says(NAMES[0], 0)
    await storm.arrives(3, exclude=NAMES[:1] + NAMES[2:])
    await storm.arrives(1)
    assert storm.served == ["acme-3"], "r0 takes it, whoever waits for r1"
    storm.says(NAMES[1], 0)
    await settle()
    assert storm.served == ["acme-3", "acme-0", "acme-1", "acme-2"]


async def test_with_the_last_replica_all_end_their_wait() -> None:
    storm = Storm(NAMES[:1])
    await storm.arrives(100)
    storm.says(NAMES[0], FULL, draining=True)
    await settle()
    assert all(isinstance(task.exception(), ReplicaLost) for task in storm.waiting)
    await storm.close()


async def test_the_wait_ends_by_the_fronts_clock(storm: Storm) -> None:
    await storm.arrives(3)
    storm.clock.advance(WAIT_S + 1)
    async with asyncio.timeout(10):
        done = await asyncio.gather(*storm.waiting, return_exceptions=True)
    assert all(isinstance(error, Overloaded) for error in done)
    assert len(storm.replicas.places) == 0


async def test_more_room_by_the_policy_counts_at_once(storm: Storm) -> None:
    await storm.arrives(9)
    orders = FrontOrders(0, 1, picking=PickingPolicy(max_queued=FULL + 2))
    storm.replicas.follow_orders(orders)
    await settle()
    assert len(storm.served) == 6


async def test_a_tenant_that_waits_too_often_is_refused_at_once_and_others_are_not(
    storm: Storm,
) -> None:
    storm.replicas.places.follow(3)
    await storm.arrives(5, ACME)
    assert [task.done() for task in storm.waiting] == [False] * 3 + [True] * 2
    assert isinstance(storm.waiting[3].exception(), Overloaded)
    await storm.arrives(1, GLOBEX)
    assert not storm.waiting[5].done()
    storm.says(NAMES[0], FULL - 2)
    await settle()
    assert storm.served == ["acme-0", "globex-5"]


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_no_request_waits_beside_room_for_it(seed: int) -> None:
    storm, rng = Storm(), random.Random(seed)
    storm.replicas.places.follow(10_000)
    for _ in range(60):
        step = rng.randrange(4)
        if step == 0:
            excluded = tuple(name for name in NAMES if rng.random() < 0.2)
            await storm.arrives(rng.randrange(4), rng.choice([ACME, GLOBEX]), exclude=excluded)
        elif step == 1:
            storm.says(rng.choice(NAMES), rng.randrange(FULL + 2), draining=rng.random() < 0.1)
        elif step == 2:
            storm.replicas._on_load(rng.choice(NAMES), 1, rng.randrange(FULL + 2))
        elif storm.waiting:
            rng.choice(storm.waiting).cancel()
        if rng.random() < 0.5:
            await settle()
    for _ in storm.waiting:
        for name in NAMES:
            storm.says(name, 0)
        await settle()
    left = [task for task in storm.waiting if not task.done()]
    assert len(left) == len(storm.replicas.places) == len(storm.replicas._room)
    assert all(task.get_name() == "excluded" for task in left)
    await storm.close()
