"""Every archive that must be refused, really made so, and what the refusal leaves behind."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile

import pytest

from cluster.adapters.sources import UploadSource
from cluster.errors import (
    AdapterDuplicateFile,
    AdapterMalformed,
    AdapterPickle,
    AdapterTooLarge,
    AdapterTooManyFiles,
    AdapterUnsafePath,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNSAFE_NAMES = [
    "/etc/adapter_config.json",
    "../adapter_config.json",
    "a/../../adapter_config.json",
    "..",
    "C:/adapter_config.json",
    "a\\adapter_config.json",
    "a\nb",
    "x" * 2000,
]


@pytest.fixture
def refused(store, listing, adapter, tools):
    """Add an archive that must be refused; nothing may change in the store."""

    async def add(data: bytes, error, says: str = "", into=store) -> None:
        kept = await into.add(UploadSource(tools.chunks(tools.tar(tools.members(adapter)))))
        before = listing()
        with pytest.raises(error) as refusal:
            await into.add(UploadSource(tools.chunks(data), name="bad.tar"))
        assert type(refusal.value) is error
        assert says in refusal.value.message
        assert ".incoming" not in refusal.value.message
        assert listing() == before
        into.verify(kept.digest)

    return add


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "./", "my-adapter/", "./my-adapter/"])
async def test_good_tars(store, adapter, tools, mode, prefix):
    members = [(f"{prefix}{name}", content) for name, content in tools.members(adapter)]
    unused = [(f"{prefix}checkpoint-{i}/{CONFIG}", b"{}") for i in range(2)]
    everything = [unused[0], (f"{prefix}README.md", b"hello"), *members, unused[1]]
    stored = await store.add(UploadSource(tools.chunks(tools.tar(everything, mode))))
    assert (stored.path / CONFIG).read_bytes() == (adapter / CONFIG).read_bytes()
    assert sorted(p.name for p in stored.path.iterdir()) == [
        CONFIG,
        WEIGHTS,
        "manifest.json",
        "record.json",
    ]
    store.verify(stored.digest)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_every_tar_format_with_long_names(store, adapter, tools, format):
    buffer = io.BytesIO()
    folder = "a" * (60 if format == tarfile.USTAR_FORMAT else 180)
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        tar.add(adapter, folder)
    stored = await store.add(UploadSource(tools.chunks(buffer.getvalue())))
    store.verify(stored.digest)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_good_zips(store, adapter, tools, method):
    members = [("a/", b""), *((f"a/{name}", data) for name, data in tools.members(adapter))]
    stored = await store.add(UploadSource(tools.chunks(tools.zip(members, method))))
    store.verify(stored.digest)


@pytest.mark.parametrize("name", UNSAFE_NAMES)
async def test_names_that_lead_elsewhere(refused, adapter, tools, name):
    members = [*tools.members(adapter), (name, b"{}")]
    await refused(tools.tar(members), AdapterUnsafePath)
    if name != "..":
        await refused(tools.zip(members), AdapterUnsafePath)


@pytest.mark.parametrize(
    ("type", "says"),
    [
        (tarfile.SYMTYPE, "a symlink"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"V", "a member of type b'V'"),
    ],
)
async def test_tar_members_that_are_no_files(refused, adapter, tools, type, says):
    info = tarfile.TarInfo(f"a/{CONFIG}")
    info.type, info.linkname = type, "/etc/passwd"
    await refused(tools.tar([(info, b""), *tools.members(adapter)]), AdapterUnsafePath, says)


async def test_a_symlink_in_a_zip(refused, adapter, tools):
    info = zipfile.ZipInfo(CONFIG)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    await refused(tools.zip([(info, b"/etc/passwd")]), AdapterUnsafePath, "a symlink")


async def test_one_name_twice(refused, adapter, tools):
    members = tools.members(adapter)
    again = [*members, (f"./{CONFIG}", members[0][1])]
    await refused(tools.tar(again), AdapterDuplicateFile, CONFIG)
    await refused(tools.zip(again), AdapterDuplicateFile, CONFIG)
    unused = [*members, ("README", b"1"), ("./README", b"2")]
    await refused(tools.tar(unused), AdapterDuplicateFile, "README")


async def test_two_adapters_in_one_archive(refused, adapter, tools):
    members = tools.members(adapter)
    two = [*((f"a/{n}", d) for n, d in members), *((f"b/{n}", d) for n, d in members)]
    await refused(tools.tar(two), AdapterDuplicateFile, "expected one adapter")


async def test_too_many_members(refused, make_store, adapter, tools):
    members = [*tools.members(adapter), *((f"f{i}", b"") for i in range(20))]
    limited = make_store(max_files=20)
    await refused(tools.tar(members), AdapterTooManyFiles, "max_files", limited)
    await refused(tools.zip(members), AdapterTooManyFiles, "max_files", limited)


async def test_bombs(refused, make_store, adapter, tools):
    """A megabyte of zeros packs into a kilobyte; declared sizes stop it before a byte is read."""
    members = [*tools.members(adapter), ("zeros", bytes(2**20))]
    limited = make_store(max_unpacked_bytes=2**19)
    for packed in (tools.tar(members, "w:gz"), tools.zip(members)):
        assert len(packed) < 10_000
        await refused(packed, AdapterTooLarge, "max_unpacked_bytes", limited)
    config_bomb = [(CONFIG, b" " * 2**20 + b" {}")]
    await refused(tools.zip(config_bomb), AdapterTooLarge, f"{CONFIG}: expected at most")


async def test_a_bomb_that_understates_its_size(refused, adapter, tools):
    """The directory says 10 bytes, the stream holds a megabyte."""
    data = bytearray(tools.zip([(CONFIG, bytes(2**20)), *tools.members(adapter)[1:]]))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", data, data.index(signature) + offset, 10)
    await refused(bytes(data), AdapterMalformed, "not a readable zip")


async def test_headers_out_of_proportion(refused, adapter, tools):
    """A long-name header that claims a gigabyte, in an archive of a few bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**30
    header = info.tobuf(tarfile.GNU_FORMAT)
    await refused(header, AdapterMalformed, "extended header")
    await refused(gzip.compress(header + bytes(2**22)), AdapterMalformed, "extended header")


async def test_a_zip_directory_that_would_fill_memory(refused, tools):
    entries, directory = 10, 2**31
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, directory, 0, 0)
    await refused(b"PK\x03\x04" + bytes(100) + end, AdapterMalformed, "directory of at most")
    locator = b"PK\x06\x07" + bytes(16)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 50, 0, 0)
    await refused(b"PK\x03\x04" + bytes(100) + locator + end, AdapterMalformed, "zip64")


async def test_an_encrypted_zip(refused, adapter, tools):
    data = bytearray(tools.zip(tools.members(adapter)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    await refused(bytes(data), AdapterMalformed, "encrypted")


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
async def test_archives_cut_anywhere(refused, adapter, tools, kind):
    members = tools.members(adapter)
    data = tools.zip(members) if kind == "zip" else tools.tar(members, kind)
    meaningful = len(data.rstrip(b"\0")) if kind == "w" else len(data)
    for kept in {0, 1, 100, 600, meaningful // 2, meaningful - 10}:
        await refused(data[:kept], AdapterMalformed)


async def test_a_damaged_header_is_not_the_end_of_the_archive(refused, adapter, tools):
    data = bytearray(tools.tar([*tools.members(adapter), ("more", b"1")]))
    start = data.index(b"more")
    data[start] ^= 1
    await refused(bytes(data), AdapterMalformed, "not a readable tar")


async def test_pickles(refused, adapter, tools):
    config = tools.members(adapter)[0]
    pickle = ("adapter_model.bin", b"\x80\x04N.")
    await refused(tools.tar([config, pickle]), AdapterPickle, "never opened")
    renamed = (WEIGHTS, b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00N." + bytes(50))
    await refused(tools.tar([config, renamed]), AdapterPickle, WEIGHTS)
    saved_by_torch = (WEIGHTS, b"PK\x03\x04" + bytes(range(100)))
    await refused(tools.tar([config, saved_by_torch]), AdapterPickle, WEIGHTS)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(4096), b"7z\xbc\xaf\x27\x1c" + bytes(600)])
async def test_what_is_no_archive(refused, data):
    await refused(data, AdapterMalformed, "expected a .tar, .tar.gz or .zip")


async def test_an_archive_without_an_adapter(refused, adapter, tools):
    await refused(tools.tar([("README", b"hello")]), AdapterMalformed, CONFIG)
    await refused(tools.tar(tools.members(adapter)[:1]), AdapterMalformed, WEIGHTS)
    await refused(tools.zip([]), AdapterMalformed, CONFIG)
