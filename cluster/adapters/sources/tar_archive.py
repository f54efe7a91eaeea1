"""Reads the members of a .tar or .tar.gz, forwards once, with a bound on every header.

Understands ustar, GNU's long names and pax paths and sizes. The standard library parses the
512-byte header block; it is not asked to walk the archive, because it reads extended headers
of any length into memory and takes a damaged header for the archive's end.
"""

import gzip
import tarfile
import zlib
from typing import BinaryIO

from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.files import CHUNK_BYTES
from cluster.adapters.sources.members import Members
from cluster.errors import AdapterMalformed

GZIP_MAGIC = b"\x1f\x8b"
MAX_EXTENDED_HEADER_BYTES = 64 * 2**10

_BLOCK = tarfile.BLOCKSIZE
_REGULAR = {tarfile.REGTYPE, tarfile.AREGTYPE}
_EXTENDED = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_REFUSED = {
    tarfile.SYMTYPE: "a symlink",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def unpack_tar(file: BinaryIO, members: Members, budget: ByteBudget, where: str) -> None:
    """Pass every member to ``members``; ``file`` is at the archive's first byte.

    Raises:
        AdapterMalformed: damaged, truncated, or not a tar archive.
        AdapterError: what ``members`` refuses.
    """
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    reader = _TarReader(gzip.GzipFile(fileobj=file) if packed else file, budget, where)
    name: str | None = None
    size: int | None = None
    while (info := reader.header()) is not None:
        if info.type in _EXTENDED:
            budget.count_file(where)
            raw = reader.extended(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(raw.rstrip(b"\0"), where)
            elif info.type == tarfile.XHDTYPE:
                records = _pax_records(raw, where)
                name = records.get("path", name)
                size = _pax_size(records, where, size)
            continue
        member = name if name is not None else info.name
        nbytes = size if size is not None else info.size
        name = size = None
        if info.type == tarfile.DIRTYPE:
            members.folder(member)
        elif info.type in _REGULAR:
            reader.begin(nbytes)
            members.file(member, nbytes, reader.read)
            reader.skip()
        else:
            raise members.refuse(member, _REFUSED.get(info.type, f"a member of type {info.type!r}"))
    reader.read_to_end()


class _TarReader:
    """A tar stream as blocks; counts what comes out of a compressed one."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, budget: ByteBudget, where: str) -> None:
        self._file = file
        self._budget = budget
        self._where = where
        self._left = 0  # bytes of the current member not yet read
        self._padding = 0  # after it, to the next block

    def header(self) -> tarfile.TarInfo | None:
        """Return the next header block, or None at the archive's end."""
        block = self._exactly(_BLOCK)
        if block.count(0) == _BLOCK:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise AdapterMalformed(f"{self._where}: not a readable tar archive: {error}") from error

    def extended(self, nbytes: int) -> bytes:
        """Read the content of an extended header, which is meant to be short."""
        if not 0 <= nbytes <= MAX_EXTENDED_HEADER_BYTES:
            raise AdapterMalformed(
                f"{self._where}: expected an extended header of at most "
                f"{MAX_EXTENDED_HEADER_BYTES} bytes, found {nbytes}"
            )
        content = self._exactly(nbytes)
        self._exactly(-nbytes % _BLOCK)
        return content

    def begin(self, nbytes: int) -> None:
        """Count a member of this size, which comes next."""
        self._left = max(nbytes, 0)
        self._padding = -nbytes % _BLOCK

    def read(self, nbytes: int) -> bytes:
        """Return up to ``nbytes`` of the current member; empty at its end."""
        data = self._exactly(min(nbytes, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Go to the next header."""
        while self._left:
            self._budget.unpack(len(self.read(CHUNK_BYTES)), self._where)
        self._exactly(self._padding)

    def read_to_end(self) -> None:
        """Read what follows the last member: padding, and the checksum of a compressed one."""
        while data := self._some(CHUNK_BYTES):
            self._budget.unpack(len(data), self._where)

    def _exactly(self, nbytes: int) -> bytes:
        data = self._some(nbytes)
        if len(data) != nbytes:
            raise AdapterMalformed(
                f"{self._where}: the archive is cut: expected {nbytes} more bytes, "
                f"found {len(data)}"
            )
        return data

    def _some(self, nbytes: int) -> bytes:
        try:
            return self._file.read(nbytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise AdapterMalformed(f"{self._where}: not readable as gzip: {error}") from error


def _pax_records(raw: bytes, where: str) -> dict[str, str]:
    """Parse ``length key=value\\n`` records; a key may not come twice."""
    records: dict[str, str] = {}
    position = 0
    while position < len(raw):
        length, space, _ = raw[position : position + 20].partition(b" ")
        end = position + int(length) if space and length.isdigit() else 0
        record = raw[position + len(length) + 1 : end]
        key, equals, value = record.partition(b"=")
        if not equals or end > len(raw) or not record.endswith(b"\n"):
            raise AdapterMalformed(f"{where}: a pax header that cannot be understood")
        text = _text(key, where)
        if text.startswith("GNU.sparse"):
            raise AdapterMalformed(f"{where}: sparse files are not unpacked")
        if text in records:
            raise AdapterMalformed(f"{where}: a pax header with {text!r} twice")
        if text in {"path", "size"}:
            records[text] = _text(value[:-1], where)
        position = end
    return records


def _pax_size(records: dict[str, str], where: str, before: int | None) -> int | None:
    size = records.get("size")
    if size is None:
        return before
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise AdapterMalformed(f"{where}: a pax header with size {size[:40]!r}")
    return int(size)


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AdapterMalformed(f"{where}: a member's name is not UTF-8") from error
