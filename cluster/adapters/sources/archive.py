"""Unpacks a .tar, .tar.gz or .zip of one PEFT folder."""

from pathlib import Path

from cluster.adapters.blocking import Proceed
from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.files import disk_errors
from cluster.adapters.sources.members import Members
from cluster.adapters.sources.tar_archive import GZIP_MAGIC, unpack_tar
from cluster.adapters.sources.zip_archive import ZIP_MAGICS, unpack_zip
from cluster.errors import AdapterMalformed

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

_TAR_MAGIC = slice(257, 262)


def unpack(archive: Path, into: Path, budget: ByteBudget, where: str, proceed: Proceed) -> None:
    """Write the adapter's files of an archive into the folder ``into``.

    The format is what the first bytes say, not what the name says.

    Raises:
        AdapterError: one of its subclasses; nothing is ever written outside ``into``.
    """
    members = Members(into, budget, where, proceed)
    with disk_errors(where), archive.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        if start.startswith(ZIP_MAGICS):
            unpack_zip(file, members, budget.limits, where)
        elif start.startswith(GZIP_MAGIC) or start[_TAR_MAGIC] == b"ustar":
            unpack_tar(file, members, budget, where)
        else:
            raise AdapterMalformed(
                f"{where}: expected a .tar, .tar.gz or .zip archive of a PEFT folder, "
                f"found {len(start)} bytes that begin with {start[:8]!r}"
            )
    members.finish()
