"""A front's routers follow the registry; an addition succeeds on every replica or not at all."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig
from cluster.domain.ids import TenantId
from cluster.errors import (
    ConfigError,
    ReplicaLost,
    RouterConflict,
    RouterError,
    RouterNotFound,
    RouterOutdated,
)
from deployments.adapter_follower import AdapterFollower, folder_versions
from deployments.cli.routers.router_remote import packed
from deployments.front.admin.front_routers import FrontRouters
from deployments.front.admin.router_admin import KEPT_S, RouterAdmin, RouterChange
from deployments.local.quickstart import DEMO_ADAPTERS
from deployments.router_build import BuiltRouters
from router_service.routers.static import save_static
from tests.support.manual_clock import ManualClock

ADMIN = TenantId("admin")


class FakeCluster:
    """Stands in for replicas that answer as the test says."""

    def __init__(self) -> None:
        self.answers: tuple[ReplicaAnswer, ...] = (
            ReplicaAnswer("r0", AddOutcome.LOADED),
            ReplicaAnswer("r1", AddOutcome.LOADED),
        )
        self.tried: list[str] = []

    async def prepare_router(
        self, router: dict[str, Any], timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        self.tried.append(router["name"])
        return self.answers


class Bench:
    def __init__(self, folder: Path, routers: list[dict[str, Any]]) -> None:
        self.folder = folder
        (folder / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 8}')
        self.config = AppConfig.model_validate(
            {
                "adapters": {"store_dir": folder / "store", "max_mixture": 4},
                "adapters_dir": DEMO_ADAPTERS,
                "routers": routers,
            }
        )
        self.clock = ManualClock(1e9)
        self.catalog = AdapterCatalog.scan(DEMO_ADAPTERS)
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: "epoch"), self.clock)
        self.adapters = AdapterFollower(self.registry, self.catalog, self.config, self.clock)
        self.cluster = FakeCluster()
        base = ModelLocation(folder, "org/base", "digest")
        self.present = BuiltRouters()
        self.routers = FrontRouters(self.adapters, self.config, base, self.use)
        self.admin = RouterAdmin(
            adapters=self.adapters,
            routers=self.routers,
            config=self.config,
            base=base,
            replicas=self.cluster,  # type: ignore[arg-type]
            clock=self.clock,
        )

    def use(self, built: BuiltRouters) -> None:
        self.present = built

    async def start(self) -> None:
        await self.registry.sync_folder(folder_versions(self.catalog, 1.0))
        await self.routers.start()

    def artifact(self, weights: dict[str, float], **fields: Any) -> Path:
        path = self.folder / f"made-{len(list(self.folder.iterdir()))}"
        save_static(path, weights, **fields)
        return path

    async def add(self, name: str, folder: Path, **fields: Any) -> None:
        with packed(folder) as file:
            content = file.read()

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await self.admin.upload(chunks(), len(content), RouterChange(name, **fields), ADMIN)

    @property
    def stored(self) -> list[str]:
        found = (self.folder / "store" / "routers").glob("[0-9a-f]*")
        return sorted(path.name for path in found)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    save_static(tmp_path / "own", {"json": 1.0})
    made = Bench(tmp_path, [{"name": "own", "path": str(tmp_path / "own")}])
    with capture_logs():
        await made.start()
        yield made
        await made.routers.close()


async def test_an_added_router_is_used_and_can_be_replaced(bench: Bench) -> None:
    assert list(bench.present.routers) == ["own"]
    await bench.add("both", bench.artifact({"sql": 0.5, "json": 0.5}))
    assert list(bench.present.routers) == ["own", "both"]
    assert bench.cluster.tried == ["both"]
    first = bench.present.routers["both"].version
    own = bench.present.routers["own"]
    await bench.add("both", bench.artifact({"sql": 1.0}), replaces=True)
    assert bench.present.routers["both"].version != first
    assert bench.present.routers["own"] is own
    await bench.admin.remove("both", ADMIN)
    assert list(bench.present.routers) == ["own"]


async def test_a_configured_router_comes_back(bench: Bench) -> None:
    before = bench.present.routers["own"].version
    with pytest.raises(RouterConflict):
        await bench.add("own", bench.artifact({"sql": 1.0}))
    await bench.add("own", bench.artifact({"sql": 1.0}), replaces=True)
    assert bench.present.routers["own"].version != before
    await bench.admin.remove("own", ADMIN)
    assert bench.present.routers["own"].version == before
    with pytest.raises(RouterNotFound, match="configuration"):
        await bench.admin.remove("own", ADMIN)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (
            (
                ReplicaAnswer("r0", AddOutcome.LOADED),
                ReplicaAnswer("r1", AddOutcome.REFUSED, "router_invalid", "no"),
            ),
            RouterError,
        ),
        ((ReplicaAnswer("r0", AddOutcome.REFUSED, "router_outdated", "old"),), RouterOutdated),
        ((ReplicaAnswer("r0", AddOutcome.REFUSED, "store_unavailable", "away"),), RouterError),
        (
            (ReplicaAnswer("r0", AddOutcome.LOADED), ReplicaAnswer("r1", AddOutcome.SILENT)),
            ReplicaLost,
        ),
        ((), ReplicaLost),
    ],
)
async def test_what_replicas_cannot_serve_is_not_added(
    bench: Bench, answers: tuple[ReplicaAnswer, ...], error: type[Exception]
) -> None:
    bench.cluster.answers = answers
    with pytest.raises(error):
        await bench.add("both", bench.artifact({"sql": 1.0}))
    assert (await bench.registry.sync()).routers == {}
    assert list(bench.present.routers) == ["own"]


async def test_adapters_and_versions_must_be_there(bench: Bench) -> None:
    with pytest.raises(RouterError, match="not adapters here: ghost"):
        await bench.add("x", bench.artifact({"sql": 0.5, "ghost": 0.5}))
    bound = bench.artifact({"sql": 1.0}, adapter_digests={"sql": "f" * 64})
    with pytest.raises(RouterOutdated, match="version ffffffffffff of 'sql'"):
        await bench.add("x", bound)
    with pytest.raises(RouterError, match="max_fan_out"):
        await bench.add("x", bench.artifact(dict.fromkeys(bench.catalog.entries, 0.1)))
    with pytest.raises(RouterError, match="kind: needed"):
        await bench.admin.add(RouterChange("x"), ADMIN)
    assert bench.cluster.tried == []


async def test_what_is_made_of_adapters_is_broken_without_them(bench: Bench) -> None:
    wanted = RouterChange("arrow", "arrow", {"adapters": ["sql", "cron"]})
    await bench.admin.add(wanted, ADMIN)
    version = bench.present.routers["arrow"].version
    name = bench.registry.view.names["shared/json"]
    await bench.registry.switch(name.owner, "sql", name.digest, expected=None, by=ADMIN)
    await bench.routers.sync()
    assert bench.present.routers["arrow"].version != version
    await bench.registry.remove_name(name.owner, "sql", expected=None, force=False)
    await bench.routers.sync()
    assert "'sql' is not an adapter here" in bench.present.broken["arrow"]
    assert list(bench.present.routers) == ["own"]


async def test_old_artifacts_are_deleted(bench: Bench) -> None:
    for weight in (1.0, 2.0, 3.0):
        await bench.add("both", bench.artifact({"sql": weight}), replaces=True)
    assert len(bench.stored) == 3
    bench.clock.advance(4e9)  # files have the machine's own time
    assert bench.clock.wall() > KEPT_S
    await bench.admin.add(RouterChange("a", "arrow", {"adapters": ["sql", "cron"]}), ADMIN)
    assert bench.stored == [bench.registry.view.routers["both"].version]


async def test_a_configured_router_that_cannot_be_used_stops_the_front(tmp_path: Path) -> None:
    save_static(tmp_path / "own", {"json": 1.0})
    (tmp_path / "own" / "router.json").write_text(json.dumps({"kind": "static"}))
    bench = Bench(tmp_path, [{"name": "own", "path": str(tmp_path / "own")}])
    with capture_logs(), pytest.raises(ConfigError, match="candidates"):
        await bench.start()
