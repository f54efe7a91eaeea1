"""Counts what one fetch may still receive and write."""

from collections.abc import Callable
from typing import BinaryIO

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.errors import AdapterTooLarge, AdapterTooManyFiles

WriteFunction = Callable[[BinaryIO, bytes], None]
"""Writes all of the bytes to the file, or raises ``OSError``."""


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to a real disk."""
    file.write(data)


class ByteBudget:
    """Counts what a source sends; every byte passes here before it is kept.

    One budget per fetch. ``received`` counts bytes as the source sends them, ``unpacked`` bytes
    as they come out of an archive.
    """

    def __init__(self, limits: AdapterLimits, write: WriteFunction = write_all) -> None:
        self.limits = limits
        self.write = write
        self.received = 0
        self.unpacked = 0
        self.files = 0

    def receive(self, nbytes: int, where: str) -> None:
        """Count bytes that have arrived.

        Raises:
            AdapterTooLarge: more than ``max_source_bytes``.
        """
        self.received += nbytes
        _check(self.received, self.limits.max_source_bytes, "max_source_bytes", where)

    def declare(self, nbytes: int, where: str) -> None:
        """Refuse early what announces itself as too large; counts nothing.

        Raises:
            AdapterTooLarge: ``nbytes`` do not fit any more.
        """
        _check(self.received + nbytes, self.limits.max_source_bytes, "max_source_bytes", where)

    def unpack(self, nbytes: int, where: str) -> None:
        """Count bytes that came out of an archive.

        Raises:
            AdapterTooLarge: more than ``max_unpacked_bytes``.
        """
        self.unpacked += nbytes
        _check(self.unpacked, self.limits.max_unpacked_bytes, "max_unpacked_bytes", where)

    def count_file(self, where: str) -> None:
        """Count one file or archive member, whether it is kept or not.

        Raises:
            AdapterTooManyFiles: more than ``max_files``.
        """
        self.files += 1
        if self.files > self.limits.max_files:
            raise AdapterTooManyFiles(
                f"{where}: expected at most {self.limits.max_files} files (max_files), found more"
            )


def _check(found: int, limit: int, name: str, where: str) -> None:
    if found > limit:
        raise AdapterTooLarge(f"{where}: expected at most {limit} bytes ({name}), found {found}")
