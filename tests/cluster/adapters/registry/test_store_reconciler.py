"""Checks that a lost registry comes back from the store, which loses what has no owner."""

import itertools
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import INCOMING, ContentStore
from cluster.adapters.registry.journal import JournalFile
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import (
    AdapterVersion,
    Place,
    PlaceKind,
    RouterRecord,
    VersionState,
)
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.store_reconciler import StoreReconciler
from cluster.adapters.sources import FolderSource
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterCorrupt
from deployments.controller.garbage_collector import GarbageCollector
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version

ACME = TenantId("acme")
ORPHAN_GRACE, UPLOAD_GRACE = 1000.0, 100.0


class Bench:
    def __init__(self, root: Path, base, write_adapter) -> None:
        self.root = root
        self.clock = ManualClock(2_000_000_000.0)  # after what the file system says
        epochs = itertools.count()
        self.memory = MemoryRegistryStore(lambda: f"epoch-{next(epochs)}")
        self.store = ContentStore(root / "store", AdapterLimits(), base, clock=self.clock)
        self.write_adapter = write_adapter
        self.numbers = itertools.count()
        self.registry = AdapterRegistry(self.memory, self.clock)
        self.reconciler = self.restarted()

    def restarted(self, **folder: str) -> StoreReconciler:
        return StoreReconciler(
            self.registry,
            self.store,
            JournalFile(self.store.root, "base"),
            self.clock,
            lambda: f"id-{next(self.numbers)}",
            folder={a: version(d, PlaceKind.FOLDER, a) for a, d in folder.items()},
            uploads_older_s=UPLOAD_GRACE,
            orphans_older_s=ORPHAN_GRACE,
        )

    async def stored(self, seed: int) -> AdapterVersion:
        folder = self.write_adapter(self.root / "source" / f"a{seed}", seed=seed)
        stored = await self.store.add(FolderSource(folder.parent, folder.name))
        return AdapterVersion(
            stored.manifest,
            Place(PlaceKind.STORE),
            VersionState.STAGED,
            f"upload {seed}",
            float(seed),
            self.clock.wall(),
            tags=stored.tags,
        )

    async def switch(
        self, alias: str, made: AdapterVersion, owner=SHARED_OWNER, grants=None
    ) -> None:
        await self.registry.stage(made, f"{owner}/{alias}")
        await self.registry.switch(
            owner, alias, made.digest, expected=None, by="admin", grants=grants
        )

    async def sync(self, **folder: str) -> None:
        await self.registry.sync_folder(
            {a: version(letter, PlaceKind.FOLDER, a) for a, letter in folder.items()}
        )

    async def lose_everything(self) -> None:
        self.memory.lose_everything()
        await self.registry.sync()
        assert not self.registry.view.names


@pytest.fixture
def bench(tmp_path, base, write_adapter):
    with capture_logs():
        yield Bench(tmp_path, base, write_adapter)


async def test_everything_comes_back(bench: Bench) -> None:
    one, two, three = [await bench.stored(seed) for seed in range(3)]
    await bench.switch("sql", one, grants=("acme",))
    await bench.switch("sql", two)
    await bench.switch("own", three, owner=ACME)
    await bench.registry.pin_name(SHARED_OWNER, "sql", True)
    router = RouterRecord("dlp", "dlp", "v1", 1.0, 2.0, "admin", {"top_p": 0.5})
    await bench.registry.put_router(router, replaces=False)
    await bench.reconciler.reconcile()
    before = bench.registry.view
    await bench.lose_everything()
    await bench.restarted().reconcile()
    after = bench.registry.view
    after.check_integrity()
    assert after.names == before.names
    assert after.routers == before.routers
    assert after.versions.keys() == before.versions.keys()
    for key, known in before.versions.items():
        found = after.versions[key]
        assert (found.manifest, found.tags, found.source, found.added_at, found.state) == (
            known.manifest,
            known.tags,
            known.source,
            known.added_at,
            VersionState.SERVED,
        )
    assert (
        await bench.registry.roll_back(SHARED_OWNER, "sql", expected=two.digest, by="admin")
    ).digest == one.digest


async def test_a_registry_that_lost_nothing_is_left_alone(bench: Bench) -> None:
    one, two = [await bench.stored(seed) for seed in range(2)]
    await bench.switch("sql", one)
    await bench.reconciler.reconcile()
    await bench.registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    reconciler = bench.restarted()
    await reconciler.reconcile()
    assert bench.registry.view.names == {}
    await bench.switch("sql", two)
    revision = bench.registry.view.revision
    await reconciler.reconcile()
    await reconciler.reconcile()
    assert bench.registry.view.revision == revision


async def test_the_configured_folder_does_not_stand_in_the_way(bench: Bench) -> None:
    """Every process that starts over an empty registry brings it in at once."""
    one = await bench.stored(1)
    await bench.sync(sql="a", json="b", chat="c")
    await bench.switch("sql", one)
    await bench.registry.remove_name(SHARED_OWNER, "json", expected=None, force=False)
    await bench.reconciler.reconcile()
    before = bench.registry.view
    await bench.lose_everything()
    await bench.sync(sql="a", json="b", chat="c")
    await bench.restarted(sql="a", json="b", chat="c").reconcile()
    bench.registry.view.check_integrity()
    assert bench.registry.view.names.keys() == before.names.keys() == {"shared/sql", "shared/chat"}
    assert bench.registry.view.names["shared/sql"] == before.names["shared/sql"]


async def test_the_recovery_may_be_faster_than_the_folder(bench: Bench) -> None:
    """Names that an operator pinned or switched have steps that only the folder gives."""
    one = await bench.stored(1)
    await bench.sync(sql="a", json="b")
    await bench.switch("sql", one)
    await bench.registry.pin_name(SHARED_OWNER, "json", True)
    await bench.reconciler.reconcile()
    before = bench.registry.view.names
    await bench.lose_everything()
    await bench.restarted(sql="a", json="b").reconcile()
    assert bench.registry.view.names == before
    await bench.sync(sql="a", json="b")
    assert bench.registry.view.names == before


async def test_a_folder_that_has_changed_meanwhile_speaks(bench: Bench) -> None:
    one = await bench.stored(1)
    await bench.sync(sql="a")
    await bench.switch("sql", one)
    await bench.reconciler.reconcile()
    await bench.lose_everything()
    await bench.sync(sql="b")
    await bench.restarted(sql="b").reconcile()
    assert bench.registry.view.names["shared/sql"].digest == digest("b")


async def test_what_an_operator_made_anew_stands(bench: Bench) -> None:
    one, two = [await bench.stored(seed) for seed in range(2)]
    await bench.switch("sql", one)
    await bench.reconciler.reconcile()
    await bench.lose_everything()
    await bench.switch("sql", two)
    await bench.restarted().reconcile()
    assert bench.registry.view.names["shared/sql"].digest == two.digest


async def test_history_is_as_long_as_there_are_files(bench: Bench) -> None:
    one, two, three = [await bench.stored(seed) for seed in range(3)]
    await bench.switch("sql", one)
    await bench.switch("sql", two)
    await bench.switch("lost", three)
    await bench.reconciler.reconcile()
    await bench.lose_everything()
    bench.store.remove(two.digest)
    (bench.store.get(three.digest).path / "adapter_model.safetensors").unlink()
    await bench.restarted().reconcile()
    bench.registry.view.check_integrity()
    assert {
        n: [s.digest for s in name.history] for n, name in bench.registry.view.names.items()
    } == {"shared/sql": [one.digest]}


async def test_a_journal_that_is_damaged_is_neither_used_nor_overwritten(bench: Bench) -> None:
    await bench.switch("sql", await bench.stored(1))
    await bench.reconciler.reconcile()
    await bench.lose_everything()
    path = JournalFile(bench.store.root, "base").path
    damaged = path.read_bytes()[:-5]
    path.write_bytes(damaged)
    with pytest.raises(AdapterCorrupt, match="registry"):
        await bench.restarted().reconcile()
    assert path.read_bytes() == damaged
    await bench.reconciler.sweep()
    assert bench.registry.view.identity is None


async def test_a_killed_write_leaves_the_journal_before(bench: Bench, monkeypatch) -> None:
    await bench.switch("sql", await bench.stored(1))
    await bench.reconciler.reconcile()
    path = JournalFile(bench.store.root, "base").path
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    await bench.registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    with pytest.raises(Exception, match="No space left") as caught:
        await bench.reconciler.reconcile()
    assert getattr(caught.value, "code", None) == "adapter_store_full"
    assert path.read_bytes() == before
    assert list((bench.store.root / INCOMING).iterdir()) == []


async def collect(bench: Bench) -> None:
    async def gone(digests: tuple[AdapterDigest, ...]):
        return [frozenset(digests)]

    collector = GarbageCollector(
        bench.registry, bench.store, gone, bench.clock, abandon_after_s=1e9
    )
    await collector.tick()


def age(bench: Bench, made: AdapterVersion, seconds: float) -> None:
    """Let a version's files be so old."""
    at = bench.clock.wall() - seconds
    os.utime(bench.store.get(made.digest).path, (at, at))


async def test_what_nobody_names_goes_after_the_grace(bench: Bench) -> None:
    named, orphan, young = [await bench.stored(seed) for seed in range(3)]
    await bench.switch("sql", named)
    await bench.reconciler.reconcile()
    for made, seconds in ((named, 9999.0), (orphan, ORPHAN_GRACE), (young, ORPHAN_GRACE - 1)):
        age(bench, made, seconds)
    await bench.reconciler.sweep()
    await collect(bench)
    assert set(bench.store.digests()) == {named.digest, young.digest}
    assert bench.registry.view.versions.keys() == {named.digest}
    assert bench.reconciler.counters.orphans_collected == 1


async def test_what_history_can_go_back_to_stays(bench: Bench) -> None:
    one, two = [await bench.stored(seed) for seed in range(2)]
    await bench.switch("sql", one)
    await bench.switch("sql", two)
    await bench.reconciler.reconcile()
    for made in (one, two):
        age(bench, made, 1e6)
    await bench.reconciler.sweep()
    await collect(bench)
    assert set(bench.store.digests()) == {one.digest, two.digest}


async def test_an_orphan_cannot_be_added_while_it_goes(bench: Bench) -> None:
    await bench.reconciler.reconcile()
    orphan = await bench.stored(1)
    age(bench, orphan, ORPHAN_GRACE)
    await bench.reconciler.sweep()
    with pytest.raises(Exception, match="being removed"):
        await bench.switch("sql", orphan)
    await collect(bench)
    await bench.switch("sql", await bench.stored(1))
    assert bench.store.get(orphan.digest) is not None


async def test_a_rotten_orphan_goes_too(bench: Bench) -> None:
    await bench.reconciler.reconcile()
    orphan = await bench.stored(1)
    age(bench, orphan, ORPHAN_GRACE)
    record = bench.store.get(orphan.digest).path / "record.json"
    record.write_bytes(b"{")
    at = bench.clock.wall() - ORPHAN_GRACE
    os.utime(record.parent, (at, at))
    await bench.reconciler.sweep()
    assert bench.store.digests() == ()


async def test_nothing_is_swept_before_the_registry_is_known(bench: Bench) -> None:
    orphan = await bench.stored(1)
    age(bench, orphan, 1e9)
    await bench.reconciler.sweep()
    assert bench.registry.view.versions == {}
    assert bench.store.digests() == (orphan.digest,)


async def test_dead_uploads_are_swept(bench: Bench) -> None:
    dead = bench.store.root / INCOMING / "tmp-dead"
    dead.mkdir(parents=True)
    (dead / "adapter_model.safetensors").write_bytes(b"half")
    at = bench.clock.wall() - UPLOAD_GRACE - 1
    for path in (*dead.iterdir(), dead):
        os.utime(path, (at, at))
    await bench.reconciler.reconcile()
    await bench.reconciler.sweep()
    assert not dead.exists()
    assert bench.reconciler.counters.uploads_swept == 1
