"""No name, however it is made, gets a byte written outside the folder it was meant for."""

import io
import os
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.archive import unpack
from cluster.adapters.sources.files import KEPT_FILES
from cluster.adapters.sources.paths import safe_parts
from cluster.errors import AdapterError, AdapterUnsafePath

PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "b",
        *KEPT_FILES,
        "adapter_model.bin",
        "C:",
        "~",
        " ",
        "\\",
        "\0",
        "%2e%2e",
    ]
)
NAMES = st.one_of(
    st.lists(PIECES, min_size=1, max_size=5).map("/".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120),
)


@given(NAMES)
@example("a/./b")
@example("....//")
def test_safe_parts_stay_inside(name):
    try:
        parts = safe_parts(name)
    except AdapterUnsafePath:
        return
    root = PurePosixPath("/root")
    assert parts
    assert root.joinpath(*parts).parts[2:] == parts
    assert (root / name).parts[2:] == parts
    assert not {"", ".", ".."} & set(parts)


@given(NAMES)
def test_names_that_leave_are_refused(name):
    resolved = Path(os.path.normpath(os.path.join("/root/x", name)))
    if resolved != Path("/root/x") and not resolved.is_relative_to("/root/x"):
        with pytest.raises(AdapterUnsafePath):
            safe_parts(name)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=50)), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, None]),
)
def test_only_the_kept_files_are_written(members, format):
    with TemporaryDirectory() as folder:
        archive, into = Path(folder, "archive"), Path(folder, "deep", "into")
        into.mkdir(parents=True)
        archive.write_bytes(_zip(members) if format is None else _tar(members, format))
        try:
            unpack(archive, into, ByteBudget(AdapterLimits()), "test", lambda: None)
        except AdapterError:
            complete = False
        else:
            complete = True
        written = {str(p.relative_to(folder)) for p in Path(folder).rglob("*")}
        allowed = {"archive", "deep", "deep/into", *(f"deep/into/{name}" for name in KEPT_FILES)}
        # Files that wait to be put next to the adapter have names of ours, and go with the archive.
        waiting = {path for path in written if path.startswith("deep/into/.aside-")}
        assert not (waiting and complete)
        assert written - waiting <= allowed
        names = [PurePosixPath(name).name for name, _ in members]
        assert not complete or {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
        for name in KEPT_FILES:
            if complete and (into / name).exists():
                contents = [data for member, data in members if PurePosixPath(member).name == name]
                assert (into / name).read_bytes() in contents


@settings(max_examples=100)
@given(st.binary(max_size=2000), st.sampled_from([b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b""]))
def test_noise_is_refused_and_never_crashes(noise, magic):
    with TemporaryDirectory() as folder:
        archive, into = Path(folder, "archive"), Path(folder, "into")
        into.mkdir()
        archive.write_bytes(magic + noise)
        with pytest.raises(AdapterError):
            unpack(archive, into, ByteBudget(AdapterLimits()), "test", lambda: None)


@settings(max_examples=100)
@given(st.data())
def test_a_good_archive_with_one_byte_changed(data):
    """Whatever is damaged: the files as they were, or a refusal of ours."""
    members = [("a/adapter_config.json", b"{}" * 20), ("a/adapter_model.safetensors", b"w" * 600)]
    kind = data.draw(st.sampled_from(["tar", "zip"]))
    content = bytearray(_tar(members, tarfile.PAX_FORMAT) if kind == "tar" else _zip(members))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with TemporaryDirectory() as folder:
        archive, into = Path(folder, "archive"), Path(folder, "into")
        into.mkdir()
        archive.write_bytes(content)
        try:
            unpack(archive, into, ByteBudget(AdapterLimits()), "test", lambda: None)
        except AdapterError:
            return
        for name, original in members:
            found = (into / PurePosixPath(name).name).read_bytes()
            assert len(found) == len(original)
            assert kind == "tar" or found == original  # a tar has no checksum of its contents


def _tar(members, format):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        seen = set()
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if info.filename not in seen:
                archive.writestr(info, content)
            seen.add(info.filename)
    return buffer.getvalue()
