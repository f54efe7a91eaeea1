"""Artifacts of routers under their versions: whole and checked, or not there."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.budget import ByteBudget
from cluster.errors import AdapterError, AdapterTooLarge, AdapterTooManyFiles, RouterError
from router_service.artifacts.artifact_store import RouterStore
from router_service.artifacts.router_artifact import load_artifact
from router_service.routers.static import save_static

FILES = ("router.json", "router.safetensors")


def packed(folder: Path, *names: str, prefix: str = "") -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names or FILES:
            tar.add(folder / name, arcname=prefix + name)
    buffer.seek(0)
    return buffer


def budget(**limits: int) -> ByteBudget:
    return ByteBudget(AdapterLimits(**limits))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    save_static(tmp_path / "made", {"sql": 0.5, "json": -1.0})
    return tmp_path / "made"


@pytest.fixture
def store(tmp_path: Path) -> RouterStore:
    return RouterStore(tmp_path / "store" / "routers")


def left(store: RouterStore) -> list[str]:
    found = store.root.rglob("*") if store.root.exists() else ()
    return sorted(str(path.relative_to(store.root)) for path in found if path.is_file())


def test_an_artifact_is_kept_under_its_version(made: Path, store: RouterStore) -> None:
    (made / "README.md").write_text("not kept")
    manifest = store.add(packed(made, *FILES, "README.md", prefix="./"), budget())
    again = store.add(packed(made), budget())
    assert manifest == again
    assert left(store) == [f"{manifest.version}/{name}" for name in FILES]
    found, tensors = load_artifact(
        store.path(manifest.version), kind="static", aliases=("sql", "json"), base_digest=None
    )
    assert found == manifest
    assert tensors["weights"].tolist() == [0.5, -1.0]
    assert oct(store.path(manifest.version).stat().st_mode & 0o777) == "0o755"


def test_what_is_no_artifact_leaves_nothing(made: Path, store: RouterStore) -> None:
    for archive in (io.BytesIO(b"what is this"), io.BytesIO(), packed(made, FILES[0])):
        with pytest.raises(RouterError) as caught:
            store.add(archive, budget())
        assert str(store.root) not in caught.value.message
    changed = json.loads((made / FILES[0]).read_text())
    changed["candidates"].reverse()
    (made / FILES[0]).write_text(json.dumps(changed))
    with pytest.raises(RouterError, match="version does not match"):
        store.add(packed(made), budget())
    assert left(store) == []


def test_links_and_ways_out_are_not_followed(made: Path, store: RouterStore) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("router.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(made / "router.json")
        tar.addfile(link)
        tar.add(made / "router.safetensors", arcname="../router.safetensors")
    buffer.seek(0)
    with pytest.raises(RouterError, match=r"router\.json"):
        store.add(buffer, budget())
    assert not (store.root / "router.safetensors").exists()


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"max_unpacked_bytes": 100}, AdapterTooLarge), ({"max_files": 1}, AdapterTooManyFiles)],
)
def test_limits_hold(
    made: Path, store: RouterStore, limits: dict[str, int], error: type[AdapterError]
) -> None:
    with pytest.raises(error):
        store.add(packed(made), budget(**limits))
    assert left(store) == []


def test_what_no_name_has_is_deleted_when_it_is_old(made: Path, store: RouterStore) -> None:
    first = store.add(packed(made), budget()).version
    save_static(made, {"sql": 1.0}, overwrite=True)
    second = store.add(packed(made), budget()).version
    for version in (first, second):
        os.utime(store.path(version), (100.0, 100.0))
    assert store.remove_others({second}, before=50.0) == ()
    assert store.remove_others({second}, before=200.0) == (first,)
    assert {path.split("/")[0] for path in left(store)} == {second}
