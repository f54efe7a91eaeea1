"""Handles the members of an archive, whatever the archive's format."""

from collections.abc import Callable
from pathlib import Path

from cluster.adapters.blocking import Proceed
from cluster.adapters.budget import ByteBudget
from cluster.adapters.format.manifest import PICKLE_FILE
from cluster.adapters.sources.files import (
    CHUNK_BYTES,
    KEPT_FILES,
    REQUIRED_FILES,
    FileWriter,
    check_complete,
    check_size,
)
from cluster.adapters.sources.paths import safe_parts
from cluster.errors import (
    AdapterDuplicateFile,
    AdapterMalformed,
    AdapterTooLarge,
    AdapterUnsafePath,
)


class Members:
    """Takes an archive's members one by one and keeps what belongs to the adapter.

    The adapter is at the archive's top, or else in the one folder there that has a config or
    weights. Other candidates are put aside until it is known which folder that is.
    They are written under their own fixed names, so that no member's path is ever used as a
    path; odd paths, links and doubled names are refused all the same, because an archive that
    holds them is not what it seems.
    """

    def __init__(self, into: Path, budget: ByteBudget, where: str, proceed: Proceed) -> None:
        self._into = into
        self._budget = budget
        self._where = where
        self._proceed = proceed
        self._seen: set[tuple[str, ...]] = set()
        self._folder: tuple[str, ...] | None = None
        self._rival: str | None = None  # a second folder with the adapter's files
        self._declared = 0
        self._pickle = False
        self._aside: dict[tuple[str, ...], Path] = {}  # member -> where it waits

    def folder(self, name: str) -> None:
        """Take a folder; nothing is written.

        Raises:
            AdapterUnsafePath, AdapterTooManyFiles: by its name or number.
        """
        self._begin()
        if name.strip("./"):
            safe_parts(name)

    def refuse(self, name: str, found: str) -> AdapterUnsafePath:
        """Build the error for a member that is neither file nor folder."""
        return AdapterUnsafePath(f"{self._label(name)}: expected a regular file, found {found}")

    def file(self, name: str, declared: int, read: Callable[[int], bytes]) -> None:
        """Take a regular file of ``declared`` bytes; ``read(n)`` returns its next bytes.

        Raises:
            AdapterTooLarge: declared or real sizes exceed a limit.
            AdapterDuplicateFile: the name was there before.
            AdapterMalformed: another number of bytes than declared.
        """
        self._begin()
        parts = safe_parts(name)
        label = self._label(name)
        if parts in self._seen:
            raise AdapterDuplicateFile(f"{label}: more than once in the archive")
        self._seen.add(parts)
        self._declare(label, declared)
        if parts[-1] not in (*KEPT_FILES, PICKLE_FILE) or len(parts) > 2:
            return
        if parts[-1] not in (*REQUIRED_FILES, PICKLE_FILE):
            check_size(parts[-1], declared, self._budget.limits)
            waiting = self._into / f".aside-{len(self._aside)}"
            self._aside[parts] = waiting
            self._copy(label, parts[-1], waiting, declared, read)
            return
        if not self._belongs(parts[:-1], label):
            return
        if parts[-1] == PICKLE_FILE:
            self._pickle = True
            return
        check_size(parts[-1], declared, self._budget.limits)
        self._copy(label, parts[-1], self._into / parts[-1], declared, read)

    def finish(self) -> None:
        """Finish after the last member.

        Raises:
            AdapterPickle, AdapterMalformed: weights or config were not among them.
            AdapterDuplicateFile: two folders hold an adapter, and the top does not.
        """
        if self._folder and self._rival:
            raise AdapterDuplicateFile(
                f"{self._rival}: expected one adapter, found one in {self._folder[0]!r} already"
            )
        for parts, waiting in self._aside.items():
            if parts[:-1] == self._folder:
                waiting.rename(self._into / parts[-1])
            else:
                waiting.unlink()
        check_complete(self._into, where=self._where, pickle=self._pickle)

    def _belongs(self, folder: tuple[str, ...], label: str) -> bool:
        """Return whether to keep a file of the adapter in this folder; the top outranks all."""
        if self._folder is None:
            self._folder = folder
        if self._folder and not folder:
            self._folder = folder
            self._pickle = False
            for name in REQUIRED_FILES:
                (self._into / name).unlink(missing_ok=True)
        if folder and self._folder != folder:
            self._rival = self._rival or label
        return self._folder == folder

    def _begin(self) -> None:
        self._proceed()
        self._budget.count_file(self._where)

    def _declare(self, label: str, declared: int) -> None:
        if declared < 0:
            raise AdapterMalformed(f"{label}: expected a size, found {declared}")
        self._declared += declared
        limit = self._budget.limits.max_unpacked_bytes
        if self._declared > limit:
            raise AdapterTooLarge(
                f"{label}: expected at most {limit} bytes unpacked (max_unpacked_bytes), "
                f"found {self._declared} declared so far"
            )

    def _copy(
        self, label: str, kept: str, path: Path, declared: int, read: Callable[[int], bytes]
    ) -> None:
        with FileWriter(path, self._budget) as target:
            while True:
                self._proceed()
                data = read(CHUNK_BYTES)
                if not data:
                    break
                self._budget.unpack(len(data), label)
                check_size(kept, target.nbytes + len(data), self._budget.limits)
                target.write(data)
        if target.nbytes != declared:
            raise AdapterMalformed(
                f"{label}: expected the declared {declared} bytes, found {target.nbytes}"
            )

    def _label(self, name: str) -> str:
        return f"{self._where}: {name[:100]!r}"
