"""Picks of a front whose machine and whose replicas have clocks that jump."""

import random
from typing import Any

from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import PickingPolicy
from deployments.front.replicas.replica_set import ReplicaSet
from tests.support.scripted_link import ScriptedLink

NAMES = tuple(map(ReplicaId, ("r0", "r1", "r2")))


class JumpingClock:
    """Steps its wall clock by up to ten minutes, either way, whenever it is read."""

    def __init__(self, jump_s: float) -> None:
        self.now = 50.0
        self._rng, self._jump_s = random.Random(2), jump_s

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1e9 + self.now + self._rng.uniform(-self._jump_s, self._jump_s)


def snapshot(name: str, sequence: int) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        ReplicaId(name), "", 0, 0, 100, 100, 8, 0, 0, (), draining=False,
        sequence=sequence, max_batch_size=16,
    )  # fmt: skip


def replica_set(clock: Any, picked: list[Any] | None = None) -> ReplicaSet:
    async def discover() -> list[ReplicaSnapshot]:
        return []

    on_pick = None if picked is None else picked.append
    replicas = ReplicaSet(
        discover, Picker(PickingPolicy()), b"key", clock, interval_s=1.0, on_pick=on_pick
    )
    links: Any = {name: ScriptedLink(name, []) for name in NAMES}
    replicas._links.update(links)
    return replicas


async def picks(jump_s: float) -> list[str]:
    """Return the replicas picked over a minute, while the front's wall clock jumps."""
    clock = JumpingClock(jump_s)
    replicas, chosen = replica_set(clock), []
    for sequence in range(1, 61):
        clock.now += 1.0
        for name in NAMES:
            replicas._on_snapshot(snapshot(name, sequence))
        for number in range(4):
            request = PickRequest((), TenantId("acme"), (), 30, 64)
            choice, _ = await replicas.pick(request, wait_s=0)
            chosen.append(choice.replica_id)
            request_id = RequestId(f"{sequence}-{number}")
            replicas.view.sent(request_id, choice.replica_id, request, clock.monotonic())
    return chosen


async def test_no_wall_clock_has_an_effect_on_a_pick() -> None:
    steady = await picks(0.0)
    assert set(steady) == set(NAMES)
    assert await picks(600.0) == steady


async def test_a_lost_link_is_told_at_once() -> None:
    clock = JumpingClock(0.0)
    replicas = replica_set(clock)
    for name in NAMES:
        replicas._on_snapshot(snapshot(name, 1))
    told: list[ReplicaId] = []
    replicas.on_lost = told.append
    replicas._on_lost(NAMES[0])
    replicas._on_lost(NAMES[2])
    assert told == [NAMES[0], NAMES[2]]
    assert [item.replica_id for item in replicas.snapshots()] == ["r1"]


async def test_the_controllers_orders_hold_from_the_next_pick_on() -> None:
    picked: list[Any] = []
    replicas = replica_set(JumpingClock(0.0), picked)
    for name in NAMES:
        replicas._on_snapshot(snapshot(name, 1))
    draining = frozenset(NAMES[:2])
    orders = FrontOrders(0, 1, draining=draining, picking=PickingPolicy(max_queued=1, explain=1.0))
    replicas.follow_orders(orders)
    choice, _ = await replicas.pick(PickRequest(()), wait_s=0)
    assert choice.replica_id == NAMES[2]
    assert choice.explanation is not None  # for the request log
    assert picked == [choice]
    replicas.view.sent(RequestId("q"), NAMES[2], PickRequest(()), 50.0)
    leaving, _ = await replicas.pick(PickRequest(()), wait_s=0)
    assert leaving.replica_id in draining  # it still runs, and all others are full
    replicas._on_load(NAMES[2], 1, 0)
    assert replicas.snapshots()[2].running == 1
    assert replicas.explain(PickRequest(())).chosen == NAMES[2]
