"""What of the routers a replica has: what the registry names, and for a while what it named."""

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import RouterRecord
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_view import RegistryView
from cluster.clock import ManualClock
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.errors import ConfigError
from deployments.replica.mixing import DecisionMixing
from deployments.replica.router_parts import GRACE_S, PartKeeper
from router_service.routers.kind import EnginePart

CONFIGURED = RouterConfig(name="first", kind="flow", path="/first")


class FakeLive:
    """A registry in memory."""

    def __init__(self) -> None:
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: "epoch"), ManualClock())

    @property
    def view(self) -> RegistryView:
        return self.registry.view

    def on_change(self, listener: Any) -> None:
        self.registry.on_change(listener)

    async def sync(self) -> None:
        await self.registry.sync()


class Bench:
    def __init__(self) -> None:
        self.live, self.clock = FakeLive(), ManualClock()
        self.mixing = DecisionMixing({}, "base", isolate_tenants=True)
        self.broken: set[str] = set()
        self.used: set[str] = set()
        self.builds: list[str] = []
        self.keeper = PartKeeper(
            live=self.live,  # type: ignore[arg-type]
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
        await self.live.registry.put_router(
            RouterRecord(name, "flow", version, 1.0, 1.0, "admin"), replaces=True
        )

    def pass_time(self) -> None:
        self.clock.advance(GRACE_S)
        self.keeper.sweep()


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    with capture_logs():
        await made.keeper.start(frozenset({"first"}))
        yield made
        await made.keeper.close()


async def test_a_replaced_part_stays_while_it_may_be_needed(bench: Bench) -> None:
    assert bench.mixing.versions == {"first"}
    await bench.put("gate", "v1")
    await bench.keeper.sync()
    assert bench.mixing.versions == {"first", "v1"}
    await bench.put("gate", "v2")
    await bench.keeper.sync()
    assert bench.mixing.versions == {"first", "v1", "v2"}
    bench.used.add("v1")
    bench.pass_time()
    assert "v1" in bench.mixing.versions
    bench.used.clear()
    bench.keeper.sweep()
    assert bench.mixing.versions == {"first", "v2"}
    await bench.live.registry.remove_router("gate")
    await bench.keeper.sync()
    bench.pass_time()
    assert bench.mixing.versions == {"first"}
    assert bench.builds.count("first") == 1


async def test_what_comes_back_in_time_stays(bench: Bench) -> None:
    for version in ("v1", "v2", "v1"):
        await bench.put("gate", version)
        await bench.keeper.sync()
    bench.pass_time()
    assert bench.mixing.versions == {"first", "v1"}


async def test_what_is_tried_and_never_added_leaves(bench: Bench) -> None:
    wanted = RouterConfig(name="gate", kind="flow", path="/v1")
    assert await bench.keeper.prepare(wanted) == ("loaded", "", "")
    assert "v1" in bench.mixing.versions
    bench.pass_time()
    assert bench.mixing.versions == {"first"}
    bench.broken.add("v2")
    answer = await bench.keeper.prepare(wanted.model_copy(update={"path": "/v2"}))
    assert answer == ("refused", "router_invalid", "v2: broken")


async def test_a_request_that_is_ahead_of_the_replica_is_waited_for(bench: Bench) -> None:
    bench.broken.add("v1")  # its files have not come yet
    await bench.put("gate", "v1")
    await bench.keeper.sync()
    assert bench.mixing.versions == {"first"}
    bench.broken.clear()
    await bench.keeper.sync()
    assert bench.mixing.versions == {"first"}  # not again and again
    await bench.keeper.ensure("v1")
    assert bench.mixing.versions == {"first", "v1"}
    await bench.keeper.ensure("v9")
    assert bench.builds.count("v1") == 2


async def test_a_change_is_followed(bench: Bench) -> None:
    await bench.put("gate", "v1")  # the listener has begun by now
    await bench.keeper.ensure("v1")
    assert bench.mixing.versions == {"first", "v1"}


async def test_a_configured_router_that_cannot_be_used_stops_the_replica() -> None:
    bench = Bench()
    bench.broken.add("first")
    with capture_logs(), pytest.raises(ConfigError, match="first: broken"):
        await bench.keeper.start(frozenset({"first"}))
