"""Archives made on the spot, a store to put them in, and a look at what it left behind."""

import io
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import ContentStore

KEPT = ("adapter_config.json", "adapter_model.safetensors", "manifest.json")


class Listing:
    """Every path under the store's root but its own folders: ``.incoming`` and the shards."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self) -> list[str]:
        found = (str(path.relative_to(self._root)) for path in self._root.rglob("*"))
        return sorted(path for path in found if path != ".incoming" and len(path) > 2)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def make_store(root, base) -> Callable[..., ContentStore]:
    def make(**limits) -> ContentStore:
        defaults = {"stall_timeout_s": 5.0, "fetch_timeout_s": 20.0}
        return ContentStore(root, AdapterLimits(**(defaults | limits)), base)

    return make


@pytest.fixture
def store(make_store) -> ContentStore:
    return make_store()


@pytest.fixture
def listing(root) -> Listing:
    return Listing(root)


@pytest.fixture
def adapter(tmp_path, write_adapter) -> Path:
    return write_adapter(tmp_path / "root" / "adapter", notes={"base_digest": "base-1"})


def members_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(name, (folder / name).read_bytes()) for name in KEPT if (folder / name).exists()]


def tar_bytes(members: list[tuple[str | tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def zip_bytes(
    members: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


async def chunked(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
def tools():
    """The functions above, for test modules (there are no packages among the tests)."""

    class Tools:
        members = staticmethod(members_of)
        tar = staticmethod(tar_bytes)
        zip = staticmethod(zip_bytes)
        chunks = staticmethod(chunked)

    return Tools
