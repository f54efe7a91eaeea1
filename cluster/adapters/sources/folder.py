"""Copies an adapter from a folder under a root that the operator named."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.adapters.blocking import Proceed, run_to_end
from cluster.adapters.budget import ByteBudget
from cluster.adapters.format.manifest import PICKLE_FILE
from cluster.adapters.sources.files import (
    CHUNK_BYTES,
    KEPT_FILES,
    FileWriter,
    check_complete,
    check_size,
)
from cluster.adapters.sources.paths import safe_parts
from cluster.errors import (
    AdapterSizeMismatch,
    AdapterSourceError,
    AdapterSourceNotFound,
    AdapterUnsafePath,
)

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_LINKS = 8
"""That one file may be behind."""
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


class FolderSource:
    """A PEFT folder at ``relative`` under ``root``.

    Every step below ``root`` is opened without following symlinks, so what was checked is what
    is read. A file that is a symlink, as in a snapshot of the hub's cache, is read where its target
    is a file below ``root``: the target's path is walked from ``root`` in the same way.
    """

    def __init__(self, root: Path, relative: str) -> None:
        self._root = root
        self._relative = relative

    def describe(self) -> str:
        """Return the path as the caller wrote it."""
        return f"folder {self._relative}"

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Copy the kept files.

        Raises:
            AdapterUnsafePath: the path leads out of the root, or a part of it, or a file, is a
                symlink or not a regular file.
            AdapterSourceNotFound: the folder does not exist.
            AdapterError: as ``AdapterSource.fetch``.
        """
        parts = safe_parts(self._relative)
        await run_to_end(lambda proceed: self._copy(parts, into, budget, proceed))

    def _copy(
        self, parts: tuple[str, ...], into: Path, budget: ByteBudget, proceed: Proceed
    ) -> None:
        with self._opened(parts) as folder:
            try:
                names = set(os.listdir(folder))
            except OSError as error:
                raise AdapterSourceError(f"{self.describe()}: {error.strerror}") from error
            for name in KEPT_FILES:
                if name in names:
                    where = f"{self.describe()}: {name}"
                    file = self._open_file(folder, parts, name, where)
                    self._copy_file(file, name, where, into, budget, proceed)
        check_complete(into, where=self.describe(), pickle=PICKLE_FILE in names)

    @contextmanager
    def _opened(self, parts: tuple[str, ...]) -> Iterator[int]:
        where = self.describe()
        try:
            current = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AdapterSourceError(f"the adapters' root folder: {error.strerror}") from error
        try:
            for part in parts:
                try:
                    below = os.open(part, _FOLDER, dir_fd=current)
                except OSError as error:
                    raise _cannot_open(where, part, error, folder=True) from error
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    def _open_file(
        self, folder: int, parts: tuple[str, ...], name: str, where: str, links: int = MAX_LINKS
    ) -> int:
        """Open a file in an open folder with the path ``parts``, or the file's target."""
        try:
            return os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ELOOP or not links:
                raise _cannot_open(where, name, error, folder=False) from error
        try:
            target = os.readlink(name, dir_fd=folder)
        except OSError as error:  # it was a link a moment ago
            raise _cannot_open(where, name, error, folder=False) from error
        *above, file = self._below_root(parts, target, where)
        with self._opened(tuple(above)) as beside:
            return self._open_file(beside, tuple(above), file, where, links - 1)

    def _below_root(self, parts: tuple[str, ...], target: str, where: str) -> tuple[str, ...]:
        """Return the path below the root that a link in the folder ``parts`` means.

        No part of ``parts`` is a link, so that ".." may be taken by the letter.
        """
        absolute = os.path.normpath(os.path.join("/", *parts, target))
        escapes = os.path.normpath(os.path.join(*parts, target)).startswith("..")
        if os.path.isabs(target):
            root = os.path.realpath(self._root)
            escapes = not absolute.startswith(f"{root.rstrip('/')}/")
            absolute = absolute.removeprefix(root)
        found = tuple(part for part in absolute.split("/") if part)
        if escapes or not found:
            raise AdapterUnsafePath(
                f"{where}: a symlink out of the folder that adapters may come from"
            )
        return found

    def _copy_file(
        self,
        descriptor: int,
        name: str,
        where: str,
        into: Path,
        budget: ByteBudget,
        proceed: Proceed,
    ) -> None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise AdapterUnsafePath(f"{where}: expected a regular file")
        with os.fdopen(descriptor, "rb", buffering=0) as source:
            budget.count_file(where)
            budget.declare(found.st_size, where)
            check_size(name, found.st_size, budget.limits)
            with FileWriter(into / name, budget) as target:
                while True:
                    proceed()
                    try:
                        data = source.read(CHUNK_BYTES)
                    except OSError as error:
                        raise AdapterSourceError(f"{where}: {error.strerror}") from error
                    if not data:
                        break
                    budget.receive(len(data), where)
                    target.write(data)
            if target.nbytes != found.st_size:
                raise AdapterSizeMismatch(
                    f"{where}: expected {found.st_size} bytes, found {target.nbytes}: "
                    "the file changed while it was read"
                )


def _cannot_open(
    where: str, part: str, error: OSError, *, folder: bool
) -> AdapterSourceError | AdapterUnsafePath:
    if error.errno == errno.ELOOP or (folder and error.errno == errno.ENOTDIR):
        return AdapterUnsafePath(
            f"{where}: {part}: expected a {'folder' if folder else 'regular file'}, "
            "found a symlink or another kind of file"
        )
    if error.errno == errno.ENOENT:
        return AdapterSourceNotFound(f"{where}: {part}: no such file or folder")
    if error.errno == errno.ENXIO:
        return AdapterUnsafePath(f"{where}: expected a regular file, found a device or socket")
    return AdapterSourceError(f"{where}: {part}: {error.strerror}")
