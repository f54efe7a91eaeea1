"""Checks that a version that no one names is freed everywhere first, and forgotten last."""

import itertools
from dataclasses import dataclass, field

import pytest

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import PlaceKind, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterConflict
from deployments.controller.garbage_collector import GRACE_S, GarbageCollector, PlaceableAdapters
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version


@dataclass
class Files:
    """Stands for the content store."""

    removed: list[AdapterDigest] = field(default_factory=list)
    broken: bool = False

    def remove(self, wanted: AdapterDigest) -> bool:
        if self.broken:
            raise OSError("the disk is away")
        self.removed.append(wanted)
        return True


class Bench:
    def __init__(self) -> None:
        epochs = itertools.count()
        self.clock = ManualClock()
        store = MemoryRegistryStore(lambda: f"epoch-{next(epochs)}")
        self.registry = AdapterRegistry(store, self.clock)
        self.files = Files()
        self.asked: list[tuple[AdapterDigest, ...]] = []
        self.answers: list[frozenset[AdapterDigest]] | None = [frozenset({digest("a")})] * 2
        self.collector = self.restarted()

    def restarted(self) -> GarbageCollector:
        return GarbageCollector(
            self.registry, self.files, self.unload, self.clock, abandon_after_s=100
        )

    async def unload(self, digests: tuple[AdapterDigest, ...]):
        self.asked.append(digests)
        return self.answers

    async def put(self, letter: str, kind: PlaceKind = PlaceKind.STORE) -> None:
        await self.registry.stage(version(letter, kind), "shared/x")
        await self.registry.switch(SHARED_OWNER, "x", digest(letter), expected=None, by="admin")

    async def retire(self) -> None:
        await self.registry.remove_name(SHARED_OWNER, "x", expected=None, force=False)

    @property
    def known(self) -> set[str]:
        return {d[0] for d in self.registry.view.versions}


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_freed_after_the_grace(bench: Bench) -> None:
    await bench.put("a")
    assert await bench.collector.tick() == ()
    await bench.retire()
    assert await bench.collector.tick() == ()
    assert bench.asked == [], "a front may still decide on it"
    bench.clock.advance(GRACE_S)
    assert await bench.collector.tick() == (digest("a"),)
    assert bench.files.removed == [digest("a")]
    assert bench.known == set()


@pytest.mark.parametrize("answers", [None, [frozenset({digest("a")}), frozenset()]])
async def test_one_replica_that_holds_it_or_is_silent_keeps_it(bench: Bench, answers) -> None:
    await bench.put("a")
    await bench.retire()
    bench.clock.advance(GRACE_S)
    bench.answers = answers
    assert await bench.collector.tick() == ()
    assert (bench.files.removed, bench.known) == ([], {"a"})


async def test_what_comes_back_in_time_stays(bench: Bench) -> None:
    await bench.put("a")
    await bench.retire()
    bench.clock.advance(GRACE_S)

    async def while_it_is_named_again(digests):
        await bench.put("a")
        return [frozenset(digests)]

    bench.unload = while_it_is_named_again
    assert await bench.restarted().tick() == ()
    assert bench.files.removed == []
    assert bench.registry.view.version(digest("a")).state is VersionState.SERVED


async def test_a_deletion_that_was_cut_off_is_finished(bench: Bench) -> None:
    await bench.put("a")
    await bench.retire()
    bench.clock.advance(GRACE_S)
    bench.files.broken = True
    with pytest.raises(OSError, match="disk"):
        await bench.collector.tick()
    assert bench.registry.view.version(digest("a")).state is VersionState.COLLECTING
    with pytest.raises(AdapterConflict):
        await bench.put("a")
    bench.files.broken = False
    assert await bench.restarted().tick() == (digest("a"),)
    assert bench.known == set()
    await bench.put("a")


async def test_files_of_a_configured_folder_are_not_ours_to_remove(bench: Bench) -> None:
    await bench.put("a", PlaceKind.FOLDER)
    await bench.retire()
    bench.clock.advance(GRACE_S)
    assert await bench.collector.tick() == (digest("a"),)
    assert bench.files.removed == []


async def test_an_addition_whose_front_died_is_let_go(bench: Bench) -> None:
    await bench.registry.stage(version("a"), "shared/x")
    bench.clock.advance(99)
    await bench.collector.tick()
    assert bench.registry.view.version(digest("a")).state is VersionState.STAGED
    bench.clock.advance(1)
    await bench.collector.tick()
    bench.clock.advance(GRACE_S)
    assert await bench.collector.tick() == (digest("a"),)


async def test_placement_sees_each_version_once(bench: Bench) -> None:
    await bench.put("a")
    await bench.put("b")
    await bench.registry.switch(TenantId("acme"), "y", digest("b"), expected=None, by="admin")
    listed = PlaceableAdapters(lambda: bench.registry.view)
    infos = listed()
    assert [(info.digest, info.alias) for info in infos] == [(digest("b"), "x")]
    await bench.registry.sync()
    assert listed() is infos, "nothing has changed"
    await bench.put("c")
    assert len(listed()) == 2
