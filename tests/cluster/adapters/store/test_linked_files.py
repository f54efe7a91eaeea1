"""Snapshots of the hub's cache: links that stay below the source's folder are followed alone."""

import os
import threading

import pytest

from cluster.adapters.sources import FolderSource, UploadSource
from cluster.errors import AdapterError, AdapterSourceNotFound, AdapterUnsafePath
from deployments.cli.adapters.pack import packed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SNAPSHOT = "models--me--skill/snapshots/abc"


@pytest.fixture
def snapshot(tmp_path, write_adapter):
    """A folder of links under ``root``, as ``huggingface_hub`` makes it."""
    cache = tmp_path / "root" / "models--me--skill"
    folder = write_adapter(cache / "snapshots" / "abc")
    (cache / "blobs").mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).rename(cache / "blobs" / f"blob-{name}")
        (folder / name).symlink_to(f"../../blobs/blob-{name}")
    return folder


async def test_a_snapshot_below_the_source_folder_is_read(store, snapshot, tmp_path, adapter):
    stored = await store.add(FolderSource(tmp_path / "root", SNAPSHOT))
    assert not (stored.path / WEIGHTS).is_symlink()
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(snapshot.parent.parent / "blobs" / f"blob-{CONFIG}")
    assert await store.add(FolderSource(tmp_path / "root", SNAPSHOT)) == stored


async def test_a_link_to_a_link(store, snapshot, tmp_path):
    (tmp_path / "root" / "third").symlink_to(snapshot / CONFIG)
    (snapshot / "second").symlink_to("../../../third")
    (snapshot / WEIGHTS).rename(snapshot / "kept")
    (snapshot / WEIGHTS).symlink_to("kept")
    await store.add(FolderSource(tmp_path / "root", SNAPSHOT))


@pytest.mark.parametrize(
    "target",
    [
        "../../../../outside",
        "/etc/passwd",
        "{outside}",
        "..",
        "../../..",
        "/",
        "../../../../root/x/..",
    ],
)
async def test_links_that_lead_out_are_refused(store, listing, snapshot, tmp_path, target):
    (tmp_path / "outside").write_text("{}")
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(target.format(outside=tmp_path / "outside"))
    with pytest.raises(AdapterError) as refusal:
        await store.add(FolderSource(tmp_path / "root", SNAPSHOT))
    assert isinstance(refusal.value, AdapterUnsafePath | AdapterSourceNotFound)
    assert listing() == []


async def test_links_that_never_end_or_end_in_nothing(store, snapshot, tmp_path):
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(CONFIG)
    with pytest.raises(AdapterUnsafePath, match="symlink"):
        await store.add(FolderSource(tmp_path / "root", SNAPSHOT))
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to("../../blobs/gone")
    with pytest.raises(AdapterSourceNotFound):
        await store.add(FolderSource(tmp_path / "root", SNAPSHOT))


async def test_a_folder_on_the_way_may_not_be_a_link(store, snapshot, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(elsewhere)
    blobs.symlink_to(elsewhere)
    with pytest.raises(AdapterUnsafePath):
        await store.add(FolderSource(tmp_path / "root", SNAPSHOT))


async def test_what_is_swapped_meanwhile_is_never_read(store, snapshot, tmp_path):
    """The link's target and its folder are replaced by ways out, again and again."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / f"blob-{CONFIG}").write_text('{"secret": true}')
    blobs = snapshot.parent.parent / "blobs"
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            os.rename(blobs, tmp_path / "aside")
            os.symlink(secret, blobs)
            os.unlink(blobs)
            os.rename(tmp_path / "aside", blobs)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        outcomes = set()
        for _ in range(100):
            try:
                stored = await store.add(FolderSource(tmp_path / "root", SNAPSHOT))
                outcomes.add("stored")
                assert "secret" not in (stored.path / CONFIG).read_text()
            except (AdapterUnsafePath, AdapterSourceNotFound):
                outcomes.add("refused")
    finally:
        ended.set()
        thread.join()
    assert outcomes <= {"stored", "refused"}


async def test_an_upload_follows_the_user_s_own_links(store, snapshot, tmp_path, tools):
    (snapshot.parent.parent / "blobs").rename(tmp_path / "blobs")
    (snapshot.parent.parent / "blobs").symlink_to(tmp_path / "blobs")
    with packed(snapshot) as archive:
        stored = await store.add(UploadSource(tools.chunks(archive.read())))
    assert stored.manifest.modules


@pytest.mark.parametrize("side", ["manifest.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("last", [False, True])
async def test_files_beside_the_adapter_s_folder_are_not_its_own(
    store, snapshot, tools, tmp_path, side, last
):
    own = [(f"lora/{name}", (snapshot / name).read_bytes()) for name in (CONFIG, WEIGHTS)]
    aside = [(side, b'{"base_digest": "other"}'), (f"tokenizer/{side}", b"{")]
    members = own + aside if last else aside + own
    stored = await store.add(UploadSource(tools.chunks(tools.tar(members))))
    assert stored.manifest.base_digest is None
    assert stored.manifest.chat_template is None
    assert not (stored.path / side).exists()
