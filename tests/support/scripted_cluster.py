"""Scripted replicas and a controller, as a front asks for them."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from cluster.adapters.registry.records import ReplicaAnswer
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.domain.ids import AdapterDigest
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import ReplicaLost
from cluster.placement.exchange import FrontOrders
from deployments.replica_calls import integrity_answer
from tests.support.byte_base import END_OF_TEXT, FIRST_BYTE, SHAPES
from tests.support.manual_clock import ManualClock
from tests.support.scripted_replica import Script, ScriptedReplica


class ScriptedCluster:
    """Implements the front's ``ReplicaBroadcast`` with replicas that follow one script."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.script = Script()
        self.replicas: list[ScriptedReplica] = []
        self.placement: dict[str, Any] = {"plan": "as scripted"}
        self.answering = asyncio.Event()  # cleared: replicas say nothing of what is added
        self.answering.set()
        self.orders = FrontOrders(acknowledged=0, epoch=0)
        self.on_orders: Callable[[FrontOrders], None] = lambda _: None
        self.calls = 0  # of the controller, because requests wait for a replica
        self._names = (f"r{number}" for number in itertools.count())

    async def add_replica(self) -> ScriptedReplica:
        """Start another replica."""
        name = next(self._names)
        replica = ScriptedReplica(name, self.script, END_OF_TEXT, FIRST_BYTE)
        await replica.start()
        self.replicas.append(replica)
        return replica

    async def close(self) -> None:
        """End all replicas."""
        for replica in self.replicas:
            await replica.stop()

    def give_orders(self, orders: FrontOrders) -> None:
        """Let the controller give other orders."""
        self.orders = orders
        self.on_orders(orders)

    def call_controller(self) -> None:
        """Take note of a front's call."""
        self.calls += 1

    async def base(self) -> BaseShapes:
        """Answer as ``ReplicaBroadcast`` does."""
        return SHAPES

    async def prepare_adapter(
        self, digest: AdapterDigest, timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """Answer as ``ReplicaBroadcast`` does."""
        await self.answering.wait()
        return tuple(replica.adapter_answer for replica in self._alive)

    async def prepare_router(
        self, router: dict[str, Any], timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """Answer as ``ReplicaBroadcast`` does."""
        return tuple(replica.router_answer for replica in self._alive)

    async def discover(self) -> list[ReplicaSnapshot]:
        """Take a snapshot of every replica that runs."""
        return [replica.snapshot() for replica in self._alive]

    async def check_integrity(self) -> dict[str, Any]:
        """Tell whether each replica's books balance."""
        found: list[Any] = [
            (replica.id, replica.fault) if replica.alive else ReplicaLost(f"{replica.id} is gone")
            for replica in self.replicas
        ]
        return integrity_answer(found, [replica.id for replica in self.replicas])

    async def controller_state(self) -> dict[str, Any]:
        """Tell what the controller says of itself."""
        return self.placement

    @property
    def _alive(self) -> list[ScriptedReplica]:
        return [replica for replica in self.replicas if replica.alive]
