"""Additions whose disk, source or length fails: a stable code, and nothing behind."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import INCOMING, ContentStore
from cluster.adapters.sources import AdapterSource, UploadSource
from cluster.errors import BraidError
from deployments.front.admin import adapter_admin
from deployments.front.admin.adapter_admin import NameChange
from tests.deployments.front.admin.test_adapter_admin import ADMIN, BASE, Bench
from tests.support.archives import tar_of_folder

STALL_S = 0.05


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, stall_timeout_s=STALL_S, fetch_timeout_s=5)


def archive_of(bench: Bench, value: float) -> bytes:
    bench.source(value)
    return tar_of_folder(bench.folder / "sources" / f"adapter-{value}")


async def chunks(data: bytes, *, hang: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 512):
        yield data[start : start + 512]
    if hang:
        await asyncio.Event().wait()


async def refused(bench: Bench, source: AdapterSource) -> BraidError:
    """Return the error of adding ``source`` in place of a good adapter, which stays untouched."""
    good = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    before = (bench.registry.view.names, bench.registry.view.versions)
    with pytest.raises(BraidError) as caught:
        await bench.admin.add(source, NameChange("one", expected=good.digest), ADMIN)
    view = await bench.registry.sync()
    assert (view.names, view.versions) == before
    root = bench.folder / "store"
    assert {path.name for path in root.glob("??/*")} == {good.digest}
    assert list((root / INCOMING).iterdir()) == []
    await bench.admin.verify(good.digest)
    return caught.value


async def test_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive_of(bench, 2)

    def write(file, chunk: bytes) -> None:
        if len(bench.cluster.prepared) == 1:  # the good one is in
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(chunk)

    def full(config, base, base_check=None) -> ContentStore:
        assert base_check is None
        return ContentStore(config.store_dir, AdapterLimits.from_config(config), BASE, write=write)

    monkeypatch.setattr(adapter_admin, "content_store", full)
    error = await refused(bench, UploadSource(chunks(data), declared=len(data)))
    assert (error.code, error.status) == ("adapter_store_full", 507)


@pytest.mark.parametrize("sent", [0, 600])
async def test_a_source_that_hangs(bench: Bench, sent: int) -> None:
    data = archive_of(bench, 2)
    source = UploadSource(chunks(data[:sent], hang=True), declared=len(data))
    error = await refused(bench, source)
    assert (error.code, error.status) == ("adapter_source_timeout", 504)


@pytest.mark.parametrize("by", [-1, 1])
async def test_a_source_that_lies_about_its_size(bench: Bench, by: int) -> None:
    data = archive_of(bench, 2)
    error = await refused(bench, UploadSource(chunks(data), declared=len(data) + by))
    assert (error.code, error.status) == ("adapter_size_mismatch", 502)


async def test_a_source_above_the_operators_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_source_bytes=4000)
    data = archive_of(bench, 2)
    error = await refused(bench, UploadSource(chunks(data)))
    assert (error.code, error.status) == ("adapter_too_large", 413)
    assert "max_source_bytes" in error.message


async def test_more_files_than_the_operator_permits(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_files=2)
    extra = bench.folder / "sources" / "adapter-2"
    bench.source(2)
    (extra / "README.md").write_text("a third")
    error = await refused(bench, UploadSource(chunks(tar_of_folder(extra))))
    assert (error.code, error.status) == ("adapter_too_many_files", 413)
