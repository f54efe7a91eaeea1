"""Checks which routers a replica has: what the registry names, and for a while what it named."""

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer, RouterRecord
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_view import RegistryView
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.domain.ids import ReplicaId
from cluster.errors import ConfigError
from deployments.replica.engine_routers import GRACE_S, EngineRouters
from deployments.replica.mixing import DecisionMixing
from router_service.routers.kind import EnginePart
from tests.support.manual_clock import ManualClock

REPLICA = ReplicaId("r0")
CONFIGURED = RouterConfig(name="first", kind="flow", path="/first")


class FakeFollower:
    """A registry in memory."""

    def __init__(self) -> None:
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: "epoch"), ManualClock())

    @property
    def view(self) -> RegistryView:
        return self.registry.view

    def on_change(self, listener: Any) -> None:
        self.registry.on_change(listener)

    async def sync(self, since: float | None = None) -> None:
        await self.registry.sync()


class Bench:
    def __init__(self) -> None:
        self.follower, self.clock = FakeFollower(), ManualClock()
        self.mixing = DecisionMixing({}, "base", isolate_tenants=True)
        self.broken: set[str] = set()
        self.used: set[str] = set()
        self.builds: list[str] = []
        self.routers = EngineRouters(
            replica_id=REPLICA,
            adapters=self.follower,
            mixing=self.mixing,
            configs=self.configs,
            build=self.build,
            uses=self.used.__contains__,
            clock=self.clock,
        )

    def configs(self, view: RegistryView) -> tuple[RouterConfig, ...]:
        added = (
            RouterConfig(name=name, kind="flow", path=f"/{router.version}")
            for name, router in sorted(view.routers.items())
        )
        return (CONFIGURED, *added)

    def build(
        self, router: RouterConfig, entries: Mapping[str, AdapterEntry]
    ) -> dict[str, EnginePart]:
        version = str(router.path).removeprefix("/")
        self.builds.append(version)
        if version in self.broken:
            raise ConfigError(f"{version}: broken")
        return {version: EnginePart(("d",))}

    async def put(self, name: str, version: str) -> None:
        await self.follower.registry.put_router(
            RouterRecord(name, "flow", version, 1.0, 1.0, "admin"), replaces=True
        )

    def pass_time(self) -> None:
        self.clock.advance(GRACE_S)
        self.routers.sweep()


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    with capture_logs():
        await made.routers.start((CONFIGURED,))
        yield made
        await made.routers.close()


async def test_a_replaced_part_stays_while_it_may_be_needed(bench: Bench) -> None:
    assert bench.mixing.versions == {"first"}
    await bench.put("gate", "v1")
    await bench.routers.rebuild()
    assert bench.mixing.versions == {"first", "v1"}
    await bench.put("gate", "v2")
    await bench.routers.rebuild()
    assert bench.mixing.versions == {"first", "v1", "v2"}
    bench.used.add("v1")
    bench.pass_time()
    assert "v1" in bench.mixing.versions
    bench.used.clear()
    bench.routers.sweep()
    assert bench.mixing.versions == {"first", "v2"}
    await bench.follower.registry.remove_router("gate")
    await bench.routers.rebuild()
    bench.pass_time()
    assert bench.mixing.versions == {"first"}
    assert bench.builds.count("first") == 1


async def test_what_comes_back_in_time_stays(bench: Bench) -> None:
    for version in ("v1", "v2", "v1"):
        await bench.put("gate", version)
        await bench.routers.rebuild()
    bench.pass_time()
    assert bench.mixing.versions == {"first", "v1"}


async def test_what_is_tried_and_never_added_leaves(bench: Bench) -> None:
    wanted = RouterConfig(name="gate", kind="flow", path="/v1")
    assert await bench.routers.prepare(wanted) == ReplicaAnswer(REPLICA, AddOutcome.LOADED)
    assert "v1" in bench.mixing.versions
    bench.pass_time()
    assert bench.mixing.versions == {"first"}
    bench.broken.add("v2")
    answer = await bench.routers.prepare(wanted.model_copy(update={"path": "/v2"}))
    assert answer == ReplicaAnswer(REPLICA, AddOutcome.REFUSED, "router_invalid", "v2: broken")


async def test_a_request_that_is_ahead_of_the_replica_is_waited_for(bench: Bench) -> None:
    bench.broken.add("v1")  # its files have not come yet
    await bench.put("gate", "v1")
    await bench.routers.rebuild()
    assert bench.mixing.versions == {"first"}
    bench.broken.clear()
    await bench.routers.rebuild()
    assert bench.mixing.versions == {"first"}  # not again and again
    await bench.routers.sync_for("v1")
    assert bench.mixing.versions == {"first", "v1"}
    await bench.routers.sync_for("v9")
    assert bench.builds.count("v1") == 2


async def test_a_change_is_followed(bench: Bench) -> None:
    await bench.put("gate", "v1")  # the listener has begun by now
    await bench.routers.sync_for("v1")
    assert bench.mixing.versions == {"first", "v1"}


async def test_a_configured_router_that_cannot_be_used_stops_the_replica() -> None:
    bench = Bench()
    bench.broken.add("first")
    with capture_logs(), pytest.raises(ConfigError, match="first: broken"):
        await bench.routers.start((CONFIGURED,))
