"""Reads the members of a .zip: stored or deflated, no zip64, encryption or long directory."""

import stat
import struct
import zipfile
import zlib
from typing import BinaryIO

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.sources.members import Members
from cluster.errors import AdapterMalformed, AdapterTooManyFiles

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
MAX_DIRECTORY_BYTES = 2**20

_END = struct.Struct("<4s4H2LH")  # end of central directory
_LOCATOR_BYTES = 20  # zip64's, right before the end
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_UNIX = 3


def unpack_zip(file: BinaryIO, members: Members, limits: AdapterLimits, where: str) -> None:
    """Pass every member to ``members``.

    Raises:
        AdapterMalformed: damaged, truncated, encrypted, or packed in another way.
        AdapterError: what ``members`` refuses.
    """
    _check_end(file, limits, where)
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                _unpack_member(archive, info, members, where)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise AdapterMalformed(f"{where}: not a readable zip archive: {error}") from error


def _unpack_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, members: Members, where: str
) -> None:
    name = info.orig_filename  # the standard library cuts ``filename`` at a zero byte
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise members.refuse(name, "a symlink" if kind == stat.S_IFLNK else "a special file")
    if name.endswith("/") or kind == stat.S_IFDIR:
        members.folder(name)
        return
    if info.flag_bits & 1:
        raise AdapterMalformed(f"{where}: {name[:100]!r}: encrypted")
    if info.compress_type not in _METHODS:
        raise AdapterMalformed(
            f"{where}: {name[:100]!r}: expected stored or deflated, "
            f"found method {info.compress_type}"
        )
    with archive.open(info) as data:
        members.file(name, info.file_size, data.read)


def _check_end(file: BinaryIO, limits: AdapterLimits, where: str) -> None:
    """Bound the directory before the standard library reads all of it into memory."""
    size = file.seek(0, 2)
    tail = _LOCATOR_BYTES + _END.size
    file.seek(max(0, size - tail))
    last = file.read(tail)
    file.seek(0)
    if len(last) < _END.size or last[-_END.size :][:4] != b"PK\x05\x06":
        raise AdapterMalformed(
            f"{where}: the archive is cut, or has a comment: expected a zip directory at its end"
        )
    _, _, _, _, entries, directory, _, comment = _END.unpack(last[-_END.size :])
    if last.startswith(b"PK\x06\x07") or comment:
        raise AdapterMalformed(f"{where}: expected a plain zip archive, found zip64 or a comment")
    if entries > limits.max_files:
        raise AdapterTooManyFiles(
            f"{where}: expected at most {limits.max_files} files (max_files), found {entries}"
        )
    if directory > MAX_DIRECTORY_BYTES:
        raise AdapterMalformed(
            f"{where}: expected a directory of at most {MAX_DIRECTORY_BYTES} bytes, "
            f"found {directory}"
        )
