"""Receives bytes that a client sends: one archive, or the files themselves."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cluster.adapters.blocking import paced, run_to_end
from cluster.adapters.budget import ByteBudget
from cluster.adapters.format.manifest import PICKLE_FILE
from cluster.adapters.sources.archive import unpack
from cluster.adapters.sources.files import KEPT_FILES, check_complete, save_stream
from cluster.adapters.sources.paths import safe_parts
from cluster.errors import AdapterDuplicateFile

PACKED_FILE = ".packed"


class UploadSource:
    """A .tar, .tar.gz or .zip of a PEFT folder, as it arrives.

    ``declared`` is the length that was announced (Content-Length), if any; the bytes must agree.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], *, declared: int | None = None, name: str = "upload"
    ) -> None:
        self._chunks = chunks
        self._declared = declared
        self._name = name

    def describe(self) -> str:
        """Return the name that the upload was given."""
        return self._name

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Receive the archive, then unpack it.

        Raises:
            AdapterError: as ``AdapterSource.fetch``.
        """
        await save_archive(self._chunks, self._declared, into, budget, self._name)


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One part of a multipart upload."""

    name: str  # as the client calls it
    chunks: AsyncIterator[bytes]
    declared: int | None = None  # announced length


class FilesSource:
    """Receives the files of a PEFT folder; files that are not the adapter's are skipped."""

    def __init__(self, files: AsyncIterator[UploadedFile], *, name: str = "upload") -> None:
        self._files = files
        self._name = name

    def describe(self) -> str:
        """Return the name that the upload was given."""
        return self._name

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Receive every file.

        Raises:
            AdapterDuplicateFile: one name twice.
            AdapterError: as ``AdapterSource.fetch``.
        """
        seen: set[str] = set()
        stall_s = budget.limits.stall_timeout_s
        async for file in self._files:
            name = "/".join(safe_parts(file.name))
            where = f"{self._name}: {name}"
            budget.count_file(where)
            if name in seen:
                raise AdapterDuplicateFile(f"{where}: more than once in the upload")
            seen.add(name)
            chunks = paced(file.chunks, stall_s, where)
            if name in KEPT_FILES:
                await save_stream(
                    into / name, chunks, budget, kind=name, declared=file.declared, where=where
                )
            else:
                async for chunk in chunks:
                    budget.receive(len(chunk), where)
        check_complete(into, where=self._name, pickle=PICKLE_FILE in seen)


async def save_archive(
    chunks: AsyncIterator[bytes],
    declared: int | None,
    into: Path,
    budget: ByteBudget,
    where: str,
) -> None:
    """Receive an archive into ``into``, unpack it there, and delete it.

    Raises:
        AdapterError: as ``save_stream`` and ``unpack``.
    """
    packed = into / PACKED_FILE
    arriving = paced(chunks, budget.limits.stall_timeout_s, where)
    await save_stream(packed, arriving, budget, kind=PACKED_FILE, declared=declared, where=where)
    await run_to_end(lambda proceed: unpack(packed, into, budget, where, proceed))
    packed.unlink()
