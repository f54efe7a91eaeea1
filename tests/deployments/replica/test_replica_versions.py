"""Checks what one replica does for the life of a version."""

import pytest
from structlog.testing import capture_logs

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.domain.adapter import SHARED_OWNER, AdapterEntry
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.errors import AdapterCapacity, AdapterNotFinite, AdapterWrongBase
from deployments.replica.replica_versions import ReplicaVersions
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version

A = digest("a")
REPLICA = ReplicaId("r0")


class FakeManager:
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.check: Exception | None = None
        self.gone = True
        self.asked: list[tuple[str, AdapterDigest]] = []

    async def load_adapter(self, wanted: AdapterDigest) -> None:
        self.asked.append(("load", wanted))
        if self.error is not None:
            raise self.error

    async def read_adapter(self, wanted: AdapterDigest) -> None:
        self.asked.append(("read", wanted))
        if self.check is not None:
            raise self.check

    async def evict_adapter(self, wanted: AdapterDigest) -> bool:
        self.asked.append(("evict", wanted))
        return self.gone

    def pin_adapter(self, wanted: AdapterDigest) -> bool:
        self.asked.append(("pin", wanted))
        return False

    def unpin_adapter(self, wanted: AdapterDigest) -> None:
        self.asked.append(("unpin", wanted))


class FakeFollower:
    """A registry in memory, without files."""

    def __init__(self) -> None:
        self.registry = AdapterRegistry(MemoryRegistryStore(lambda: "epoch"), ManualClock())

    @property
    def view(self):
        return self.registry.view

    def on_change(self, listener) -> None:
        self.registry.on_change(listener)

    async def sync_for(self, digests) -> None:
        await self.registry.sync()

    def by_digest(self, wanted: AdapterDigest) -> AdapterEntry:
        return self.view.by_digest(wanted)


class Bench:
    def __init__(self) -> None:
        self.follower, self.manager = FakeFollower(), FakeManager()
        self.used: set[AdapterDigest] = set()
        self.freed: list[int] = []  # how many calls there were when memory was given back
        self.versions = ReplicaVersions(
            replica_id=REPLICA,
            follower=self.follower,
            adapters=self.manager,
            users=self,
            on_freed=self._freed,
        )

    def uses(self, wanted: AdapterDigest) -> bool:
        return wanted in self.used

    async def _freed(self) -> None:
        self.freed.append(len(self.manager.asked))

    async def switch(self, letter: str) -> None:
        await self.follower.registry.stage(version(letter), "shared/x")
        await self.follower.registry.switch(
            SHARED_OWNER, "x", digest(letter), expected=None, by="admin"
        )


@pytest.fixture
def bench():
    with capture_logs():
        yield Bench()


async def test_what_there_is_room_for_is_loaded(bench: Bench) -> None:
    await bench.follower.registry.stage(version("a"), "shared/x")
    assert await bench.versions.prepare(A) == ReplicaAnswer(REPLICA, AddOutcome.LOADED)
    assert bench.manager.asked == [("load", A)]


async def test_what_there_is_no_room_for_is_read_and_checked(bench: Bench) -> None:
    await bench.follower.registry.stage(version("a"), "shared/x")
    bench.manager.error = AdapterCapacity("full")
    assert await bench.versions.prepare(A) == ReplicaAnswer(REPLICA, AddOutcome.CHECKED)
    assert bench.manager.asked == [("load", A), ("read", A)]
    bench.manager.check = AdapterNotFinite("NaN in q_proj")
    assert await bench.versions.prepare(A) == ReplicaAnswer(
        REPLICA, AddOutcome.REFUSED, "adapter_not_finite", "NaN in q_proj"
    )


async def test_what_cannot_be_served_is_refused_with_its_reason(bench: Bench) -> None:
    bench.manager.error = AdapterWrongBase("too wide")
    assert await bench.versions.prepare(A) == ReplicaAnswer(
        REPLICA, AddOutcome.REFUSED, "adapter_wrong_base", "too wide"
    )


async def test_what_a_request_has_is_not_even_tried(bench: Bench) -> None:
    b = digest("b")
    bench.used.add(A)
    assert await bench.versions.unload((A, b)) == (b,)
    bench.manager.gone = False
    assert await bench.versions.unload((b,)) == ()
    assert bench.manager.asked == [("evict", b), ("evict", b)]
    assert bench.freed == [1]


async def test_pins_follow_the_name(bench: Bench) -> None:
    await bench.switch("a")
    await bench.follower.registry.pin_name(SHARED_OWNER, "x", True)
    bench.versions.start()
    assert bench.manager.asked == [("pin", A)]
    bench.manager.asked.clear()
    await bench.switch("b")
    assert bench.manager.asked == [("unpin", A), ("pin", digest("b"))]
    bench.manager.asked.clear()
    await bench.follower.registry.pin_name(SHARED_OWNER, "x", False)
    assert bench.manager.asked == [("unpin", digest("b"))]
