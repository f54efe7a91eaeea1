"""One thing is built for every router, once, and again when there is reason to."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import RouterRecord
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_view import RegistryView
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.errors import ConfigError, RouterOutdated
from deployments.router_follower import BuildResult, RouterFollower
from tests.support.manual_clock import ManualClock


class Registry:
    """A registry in memory, in sync when it is asked to be."""

    def __init__(self) -> None:
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: "epoch"), ManualClock())

    @property
    def view(self) -> RegistryView:
        return self.registry.view

    def on_change(self, listener: Any) -> None:
        self.registry.on_change(listener)

    async def sync(self, since: float | None = None) -> None:
        await self.registry.sync(since)


class Bench:
    def __init__(self) -> None:
        self.adapters = Registry()
        self.builds: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.present: Mapping[str, BuildResult[str]] = {}
        self.follower = RouterFollower[str](
            self.adapters, self.configs, self.build, self.use, role="test"
        )

    def configs(self, view: RegistryView) -> tuple[RouterConfig, ...]:
        return tuple(
            RouterConfig(name=name, kind="static", path=f"/{router.version}")
            for name, router in view.routers.items()
        )

    def build(self, router: RouterConfig, entries: Mapping[str, AdapterEntry]) -> str:
        version = str(router.path).removeprefix("/")
        self.builds.append(version)
        assert self.gate.wait(20)
        if version in self.broken:
            raise self.broken.pop(version)  # once
        return version

    def use(self, results: Mapping[str, BuildResult[str]]) -> None:
        self.present = results

    async def put(self, name: str, version: str) -> None:
        await self.adapters.registry.put_router(
            RouterRecord(name, "static", version, 1.0, 1.0, "admin"), replaces=True
        )

    def values(self) -> dict[str, str | None]:
        return {name: result.value for name, result in self.present.items()}


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    with capture_logs():
        yield made
        made.gate.set()
        await made.follower.close()


async def test_only_what_changed_is_built(bench: Bench) -> None:
    await bench.put("a", "a1")
    await bench.put("b", "b1")
    await bench.follower.start(())
    await bench.put("b", "b2")
    await bench.follower.sync()
    assert bench.values() == {"a": "a1", "b": "b2"}
    assert sorted(bench.builds) == ["a1", "b1", "b2"]
    await bench.adapters.registry.remove_router("a")
    await bench.follower.sync()
    assert bench.values() == {"b": "b2"}


async def test_a_change_that_is_announced_is_built(bench: Bench) -> None:
    await bench.follower.start(())
    await bench.put("a", "a1")
    async with asyncio.timeout(20):
        while bench.values() != {"a": "a1"}:  # noqa: ASYNC110 - built in a thread
            await asyncio.sleep(0.001)


async def test_many_at_once_build_once(bench: Bench) -> None:
    await bench.put("a", "a1")
    await asyncio.gather(*(bench.follower.sync() for _ in range(5)))
    assert bench.builds == ["a1"]


async def test_a_failure_that_is_on_its_way_is_tried_again(bench: Bench) -> None:
    """The files came just after the build that missed them had begun."""
    await bench.put("a", "a1")
    bench.broken["a1"] = ConfigError("no files yet")
    bench.gate.clear()
    first = asyncio.create_task(bench.follower.rebuild())
    async with asyncio.timeout(20):
        while not bench.builds:  # noqa: ASYNC110 - built in a thread
            await asyncio.sleep(0.001)
    again = asyncio.create_task(bench.follower.retry())
    for _ in range(5):
        await asyncio.sleep(0)
    bench.gate.set()
    await first
    await again
    assert bench.values() == {"a": "a1"}
    assert bench.builds == ["a1", "a1"]


async def test_a_failure_is_not_tried_again_by_itself(bench: Bench) -> None:
    await bench.put("a", "a1")
    bench.broken["a1"] = RouterOutdated("of another version")
    await bench.follower.start(bench.configs(bench.adapters.view))
    await bench.follower.sync()
    assert (bench.values(), bench.builds) == ({"a": None}, ["a1"])


async def test_closing_ends_a_build_that_is_waited_for(bench: Bench) -> None:
    await bench.follower.start(())
    bench.gate.clear()
    await bench.put("a", "a1")
    await asyncio.sleep(0)
    await bench.follower.close()
    assert bench.values() == {}
