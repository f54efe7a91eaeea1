"""The content store: what becomes visible, when, and what is left when something goes wrong."""

import asyncio
import errno
import gc
import os
import shutil
import threading
from dataclasses import replace

import psutil
import pytest

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.format.manifest import read_manifest
from cluster.adapters.loader import load_adapter
from cluster.adapters.sources import FilesSource, FolderSource, UploadedFile, UploadSource
from cluster.config import AdapterConfig
from cluster.domain.ids import AdapterDigest
from cluster.errors import (
    AdapterCorrupt,
    AdapterDuplicateFile,
    AdapterMalformed,
    AdapterNotStored,
    AdapterSizeMismatch,
    AdapterSourceTimeout,
    AdapterStoreError,
    AdapterStoreFull,
    AdapterTooLarge,
)
from tests.support.manual_clock import ManualClock

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNKNOWN = AdapterDigest("0" * 64)


@pytest.fixture
def source(adapter):
    return lambda: FolderSource(adapter.parent, adapter.name)


async def test_what_is_stored_is_what_was_given(store, source, adapter, base):
    stored = await store.add(source())
    manifest, tags = read_manifest(adapter)
    assert (stored.digest, stored.manifest, stored.tags) == (manifest.digest, manifest, tags)
    assert stored.nbytes == sum(p.stat().st_size for p in adapter.iterdir())
    assert store.get(stored.digest) == stored
    assert store.list() == [stored]
    assert store.digests() == (stored.digest,)
    assert load_adapter(stored.path, base, AdapterConfig(), stored.digest).manifest == manifest
    store.verify(stored.digest)


async def test_patterns_and_tags_survive_the_record(store, tmp_path, write_adapter):
    write_adapter(
        tmp_path / "root" / "p",
        notes={"tags": ["a", "b"], "description": "hé"},
        rank_pattern={"q_proj": 4},
        alpha_pattern={"v_proj": 3},
        base_model_name_or_path="some/base",
    )
    stored = await store.add(FolderSource(tmp_path / "root", "p"))
    assert store.get(stored.digest) == stored
    assert stored.tags == ("a", "b")
    assert stored.manifest.rank_pattern == (("q_proj", 4),)


async def test_adding_again_changes_nothing(store, source, listing, adapter, tools):
    first = await store.add(source())
    before, inode = listing(), first.path.stat().st_ino
    assert await store.add(source()) == first
    assert await store.add(UploadSource(tools.chunks(tools.tar(tools.members(adapter))))) == first
    assert (listing(), first.path.stat().st_ino) == (before, inode)


async def test_remove(store, source, listing):
    stored = await store.add(source())
    assert store.remove(stored.digest) is True
    assert store.remove(stored.digest) is False
    assert store.get(stored.digest) is None
    assert listing() == []
    with pytest.raises(AdapterNotStored):
        store.verify(stored.digest)


def test_an_empty_store(store, listing):
    assert store.get(UNKNOWN) is None
    assert store.list() == []
    assert store.remove(UNKNOWN) is False
    assert store.sweep(0) == 0


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_digest_is_never_a_path(store, digest):
    for method in (store.get, store.remove, store.verify):
        with pytest.raises(AdapterNotStored, match="64 hex digits"):
            method(AdapterDigest(digest))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: os.truncate(path / WEIGHTS, 100),
        lambda path: (path / WEIGHTS).unlink(),
        lambda path: (path / "record.json").write_text("{}"),
        lambda path: (path / "record.json").unlink(),
    ],
    ids=["cut", "missing", "record", "no-record"],
)
async def test_rot_that_shows_at_once(store, source, spoil):
    stored = await store.add(source())
    spoil(stored.path)
    with pytest.raises(AdapterCorrupt):
        store.get(stored.digest)
    with pytest.raises(AdapterCorrupt):
        store.verify(stored.digest)
    assert store.list() == []
    assert store.digests() == (stored.digest,)
    assert await store.add(source()) == stored
    store.verify(stored.digest)


async def test_rot_that_only_reading_shows(store, source):
    stored = await store.add(source())
    content = bytearray((stored.path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (stored.path / WEIGHTS).write_bytes(content)
    assert store.get(stored.digest) == stored
    with pytest.raises(AdapterCorrupt, match="the files are of version"):
        store.verify(stored.digest)
    assert await store.add(source()) == stored
    store.verify(stored.digest)


async def test_a_disk_that_fills_up_at_any_byte(root, base, source, listing, adapter):
    """Every write is the last that fits, one after the other; then one that fits them all."""
    sizes = sum(p.stat().st_size for p in adapter.iterdir())
    for room in (0, 1, 200, sizes - 1, sizes, sizes + 10):
        store = ContentStore(root, AdapterLimits(), base, write=_full_after(room))
        with pytest.raises(AdapterStoreFull, match="room in the store"):
            await store.add(source())
        assert listing() == []
    await ContentStore(root, AdapterLimits(), base, write=_full_after(10**9)).add(source())


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EDQUOT, AdapterStoreFull), (errno.EIO, AdapterStoreError)]
)
async def test_a_disk_that_fails_otherwise(root, base, adapter, tools, listing, number, error):
    def write(file, data):
        raise OSError(number, os.strerror(number))

    store = ContentStore(root, AdapterLimits(), base, write=write)
    packed = tools.zip(tools.members(adapter))
    with pytest.raises(error) as refusal:
        await store.add(UploadSource(tools.chunks(packed)))
    assert type(refusal.value) is error
    assert listing() == []


async def test_a_root_that_cannot_be_written(tmp_path, base, source):
    (tmp_path / "store").write_text("a file, where a folder should be")
    store = ContentStore(tmp_path / "store", AdapterLimits(), base)
    with pytest.raises(AdapterStoreError):
        await store.add(source())


async def test_many_adds_of_the_same_bytes(store, source, listing, adapter, tools):
    packed = tools.tar(tools.members(adapter))
    adds = [store.add(UploadSource(tools.chunks(packed, 100))) for _ in range(10)]
    stored = await asyncio.gather(*adds, *(store.add(source()) for _ in range(10)))
    assert len({s.digest for s in stored}) == 1
    assert len(listing()) == 1 + 4  # the version and its files
    store.verify(stored[0].digest)


async def test_adds_beside_removes_beside_readers(store, source, listing):
    """Readers see all of the version or nothing; adds never fail."""
    digest = (await store.add(source())).digest
    done = threading.Event()
    problems = []

    def remove_and_read():
        while not done.is_set():
            try:
                store.remove(digest)
                store.get(digest)
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=remove_and_read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            added = await asyncio.gather(*(store.add(source()) for _ in range(4)))
            assert {stored.digest for stored in added} == {digest}
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert problems == []
    store.remove(digest)
    assert listing() == []


class _Stops:
    """A source that stops at a given file and waits for ever."""

    def __init__(self, adapter, tools, after: int) -> None:
        self.waiting = asyncio.Event()
        self._members = tools.members(adapter)
        self._tools = tools
        self._after = after

    def source(self) -> FilesSource:
        return FilesSource(self._files())

    async def _files(self):
        for index, (name, content) in enumerate(self._members):
            if index == self._after:
                yield UploadedFile(name, self._hang(content))
            else:
                yield UploadedFile(name, self._tools.chunks(content))

    async def _hang(self, content):
        yield content[: len(content) // 2]
        self.waiting.set()
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_cancelled_while_fetching(store, adapter, tools, listing, after):
    stops = _Stops(adapter, tools, after)
    task = asyncio.create_task(store.add(stops.source()))
    await stops.waiting.wait()
    assert listing() != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert listing() == []


async def test_cancelled_after_any_number_of_turns(root, base, source, listing):
    """Whatever ``add`` is doing when it is cancelled: all of the version, or nothing."""
    store = ContentStore(root, AdapterLimits(), base)
    finished = 0
    for turns in range(0, 60, 3):
        task = asyncio.create_task(store.add(source()))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.to_thread(lambda: None)
        task.cancel()
        try:
            digest = (await task).digest
            finished += 1
        except asyncio.CancelledError:
            if not store.digests():
                assert listing() == []
                continue
            (digest,) = store.digests()
        store.verify(digest)
        store.remove(digest)
        assert listing() == []
    assert finished < 20


async def test_a_source_that_hangs(make_store, adapter, tools, listing):
    for limits, says in (
        ({"stall_timeout_s": 0.05}, "stall_timeout_s"),
        ({"fetch_timeout_s": 0.05}, "fetch_timeout_s"),
    ):
        with pytest.raises(AdapterSourceTimeout, match=says):
            await make_store(**limits).add(_Stops(adapter, tools, 1).source())
        assert listing() == []


async def test_a_source_that_lies_about_its_size(store, adapter, tools, listing):
    packed = tools.tar(tools.members(adapter))
    for declared in (len(packed) - 1, len(packed) + 1, 0):
        with pytest.raises(AdapterSizeMismatch, match=f"announced {declared} bytes"):
            await store.add(UploadSource(tools.chunks(packed), declared=declared))
    with pytest.raises(AdapterTooLarge, match="max_source_bytes"):
        await store.add(UploadSource(tools.chunks(packed), declared=2**60))
    assert listing() == []
    await store.add(UploadSource(tools.chunks(packed), declared=len(packed)))


async def test_a_source_that_never_ends(make_store, listing):
    async def endless():
        while True:
            yield bytes(2**16)

    with pytest.raises(AdapterTooLarge, match="max_source_bytes"):
        await make_store(max_source_bytes=2**20).add(UploadSource(endless()))
    assert listing() == []


async def test_files_one_by_one(store, adapter, tools, listing):
    def files(members):
        async def each():
            for name, content in members:
                yield UploadedFile(name, tools.chunks(content), len(content))

        return FilesSource(each())

    members = tools.members(adapter)
    stored = await store.add(files([*members, ("README.md", b"hello")]))
    assert not (stored.path / "README.md").exists()
    with pytest.raises(AdapterDuplicateFile, match=CONFIG):
        await store.add(files([*members, members[0]]))
    with pytest.raises(AdapterMalformed, match=WEIGHTS):
        await store.add(files(members[:1]))
    assert store.digests() == (stored.digest,)


async def test_sweep_takes_what_was_abandoned_and_nothing_else(root, base, source, listing):
    store = ContentStore(root, AdapterLimits(), base, clock=(clock := ManualClock()))
    kept = await store.add(source())
    before = listing()
    for name, age in (("old", 500.0), ("busy", 500.0), ("new", 10.0)):
        folder = root / ".incoming" / name
        folder.mkdir()
        (folder / "part").write_bytes(b"1")
        for path in (folder / "part", folder):
            os.utime(path, (clock.wall() - age,) * 2)
    os.utime(root / ".incoming" / "busy" / "part", (clock.wall() - 10.0,) * 2)
    assert store.sweep(100.0) == 1
    assert sorted(os.listdir(root / ".incoming")) == ["busy", "new"]
    clock.advance(200.0)
    assert store.sweep(100.0) == 2
    assert listing() == before
    store.verify(kept.digest)


@pytest.mark.slow
async def test_adding_and_removing_leaves_nothing(store, source, listing):
    """No file, no handle, no object: the memory of a process that adds for ever stays flat."""

    async def cycles(number: int) -> int:
        for _ in range(number):
            stored = await store.add(source())
            assert store.remove(stored.digest)
        gc.collect()
        return len(gc.get_objects())

    objects, handles = await cycles(5), psutil.Process().num_fds()
    assert await cycles(20) < objects + 200  # ten for each cycle would be 200
    assert psutil.Process().num_fds() <= handles
    assert listing() == []


async def test_the_first_description_stays(store, adapter, source):
    first = await store.add(source())
    other = adapter.parent / "other"
    shutil.copytree(adapter, other)
    (other / "manifest.json").write_text('{"base_digest": "base-1", "description": "new"}')
    again = await store.add(FolderSource(adapter.parent, "other"))
    assert again == first
    assert again.manifest == replace(first.manifest, description="")


def _full_after(room: int):
    """Return a write to a disk with ``room`` bytes left.

    A write that does not fit writes what does, and fails.
    """
    left = room

    def write(file, data):
        nonlocal left
        fits = data[:left]
        file.write(fits)
        left -= len(fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write
