"""Stores versions by content: ``root/<digest[:2]>/<digest>/`` has one version's files.

``root`` may be a volume that several processes and machines share. A folder that is visible under
a digest is complete: files are gathered in a private folder under ``root/.incoming`` and renamed
into place, and renamed away before they are deleted. The 256 two-letter folders stay once made.
"""

import asyncio
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.blocking import Proceed, run_to_end
from cluster.adapters.budget import ByteBudget, WriteFunction, write_all
from cluster.adapters.format.manifest import read_manifest
from cluster.adapters.record import RECORD_FILE, StoredRecord, encode_record, read_record
from cluster.adapters.sources.files import KEPT_FILES, disk_errors
from cluster.adapters.sources.protocol import AdapterSource
from cluster.adapters.validation.adapter_checks import validate_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.clock import Clock, SystemClock
from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest
from cluster.errors import (
    AdapterCorrupt,
    AdapterError,
    AdapterNotStored,
    AdapterSourceTimeout,
    AdapterStoreError,
)

INCOMING = ".incoming"
MAX_MESSAGE_CHARS = 600

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """One version in the store."""

    digest: AdapterDigest
    manifest: AdapterManifest
    path: Path  # a PEFT folder; ``cluster.adapters.loader`` reads it
    nbytes: int  # of its files
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what people should know of it, a sentence each
    base_check: BaseCheck | None = None  # what had to agree with the base; None: as configured


class ContentStore:
    """Keeps versions by digest, checked before they become visible.

    Safe under concurrent tasks, threads and processes that share ``root``. Another process may
    remove a version that was added at any time: the one that counts its users decides when.
    """

    def __init__(
        self,
        root: Path,
        limits: AdapterLimits,
        base: BaseShapes,
        *,
        clock: Clock | None = None,
        write: WriteFunction = write_all,
        base_check: BaseCheck | None = None,
    ) -> None:
        self.root = root
        self._base_check = base_check
        self._limits = limits
        self._base = base
        self._clock = clock or SystemClock()
        self._write = write

    async def add(self, source: AdapterSource) -> StoredAdapter:
        """Fetch, check and store a version; returns one that is stored already as it is.

        Two sources whose tensors and scaling agree are one version, whatever their
        descriptions say; the first one's description stays, the notes are this one's. A stored
        version whose bytes have rotted is replaced. After any error or cancellation nothing is
        left behind.

        Raises:
            AdapterError: one of its subclasses, with a stable code; the message names file,
                tensor or field, what was expected and what was found.
        """
        with self._private_folder() as folder:
            with _relative_messages(folder, source.describe()):
                await self._fetch(source, folder)
                stored = await run_to_end(lambda proceed: self._check(folder, proceed))
            placed = await self._place(folder, stored)
            return replace(placed, notes=stored.notes, base_check=stored.base_check)

    def get(self, digest: AdapterDigest) -> StoredAdapter | None:
        """Return a version by its digest, or None; reads only its record.

        Raises:
            AdapterCorrupt: the record cannot be understood, or a file is missing or cut.
        """
        path = self._path(digest)
        for _ in range(_ATTEMPTS):
            before = _inode(path)
            if before is None:
                return None
            try:
                return self._read(path, digest)
            except FileNotFoundError as error:
                if _inode(path) == before:
                    raise AdapterCorrupt(f"{digest}: {error.filename}: no such file") from error
        return None

    def list(self) -> list[StoredAdapter]:
        """Return all sound versions, by digest; ``verify`` explains what is wrong with the others.

        Raises:
            AdapterStoreError: the disk refused.
        """
        found = []
        for digest in self.digests():
            try:
                stored = self.get(digest)
            except AdapterCorrupt:
                continue
            if stored is not None:
                found.append(stored)
        return found

    def digests(self) -> tuple[AdapterDigest, ...]:
        """Return the sorted digests of all versions, sound or not; reads no file."""
        with disk_errors(str(self.root)):
            return tuple(
                AdapterDigest(name)
                for shard in _names(self.root)
                if len(shard) == 2
                for name in _names(self.root / shard)
                if _DIGEST.fullmatch(name)
            )

    def remove(self, digest: AdapterDigest) -> bool:
        """Delete a version; returns False if there is none.

        A process that has its files open keeps them; one that opens them later finds none.

        Raises:
            AdapterStoreError: the disk refused.
        """
        path = self._path(digest)
        with disk_errors(digest), self._private_folder() as folder:
            try:
                path.rename(folder / digest)
            except FileNotFoundError:
                return False
        return True

    def verify(self, digest: AdapterDigest) -> None:
        """Read every byte of a stored version and compare it with its digest and record.

        Raises:
            AdapterNotStored: the version is not stored.
            AdapterCorrupt: its files are not what was stored.
        """
        stored = self.get(digest)
        if stored is None:
            raise AdapterNotStored(f"{digest}: no such version in the store")
        try:
            manifest, tags = read_manifest(stored.path)
        except AdapterError as error:
            raise AdapterCorrupt(f"{digest}: {error.message}") from error
        if manifest.digest != digest:
            raise AdapterCorrupt(f"{digest}: the files are of version {manifest.digest}")
        if (manifest, tags) != (stored.manifest, stored.tags):
            raise AdapterCorrupt(f"{digest}: the files say otherwise than the record")

    def sweep(self, older_than_s: float) -> int:
        """Delete folders that a killed process left behind. Returns their number.

        A folder counts as dead when nothing in it has changed for ``older_than_s``; keep it
        well above ``stall_timeout_s``.

        Raises:
            AdapterStoreError: the disk refused.
        """
        before = self._clock.wall() - older_than_s
        swept = 0
        with disk_errors(INCOMING):
            for name in _names(self.root / INCOMING):
                folder = self.root / INCOMING / name
                if _last_change(folder) < before:
                    _delete(folder)
                    swept += 1
        return swept

    def age_s(self, digest: AdapterDigest) -> float | None:
        """Return the seconds since a version's files were written, or None if it is not stored."""
        try:
            return self._clock.wall() - self._path(digest).stat().st_mtime
        except FileNotFoundError:
            return None

    def _path(self, digest: AdapterDigest) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise AdapterNotStored(f"{digest[:100]!r}: expected a sha256 of 64 hex digits")
        return self.root / digest[:2] / digest

    @contextmanager
    def _private_folder(self) -> Iterator[Path]:
        incoming = self.root / INCOMING
        with disk_errors(INCOMING):
            incoming.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=incoming))
        try:
            yield folder
        finally:
            with disk_errors(INCOMING):
                _delete(folder)

    async def _fetch(self, source: AdapterSource, folder: Path) -> None:
        budget = ByteBudget(self._limits, self._write)
        timeout_s = self._limits.fetch_timeout_s
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await source.fetch(folder, budget)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AdapterSourceTimeout(
                f"{source.describe()}: expected all of it within {timeout_s:g} s "
                f"(fetch_timeout_s), got {budget.received} bytes"
            ) from error

    def _check(self, folder: Path, proceed: Proceed) -> StoredRecord:
        """Validate, write the record, and bring everything to the disk."""
        found = validate_adapter(folder, self._base, self._limits, proceed)
        with disk_errors(RECORD_FILE):
            files = {
                name: (folder / name).stat().st_size
                for name in KEPT_FILES
                if (folder / name).exists()
            }
            record = StoredRecord(found.manifest, found.tags, files, found.notes, self._base_check)
            with (folder / RECORD_FILE).open("xb", buffering=0) as file:
                self._write(file, encode_record(record))
            for name in (*files, RECORD_FILE):
                proceed()
                _sync(folder / name)
            folder.chmod(0o755)  # made for this process alone; other pods read it
            _sync(folder)
        return record

    async def _place(self, folder: Path, record: StoredRecord) -> StoredAdapter:
        """Rename a folder into place, or find that another task was first.

        The rename is made without leaving the event loop, so that no cancellation can come
        between it and its consequences. A cancellation while the rename is flushed to the disk
        is as late as one after ``add`` has returned: the version stays.
        """
        digest = record.manifest.digest
        path = self._path(digest)
        for _ in range(_ATTEMPTS):
            if self._renamed(folder, path):
                await run_to_end(lambda _: self._sync_folders(path))
                return _stored(path, record)
            before = _inode(path)
            try:
                await run_to_end(lambda _: self.verify(digest))
                stored = self.get(digest)
                if stored is not None:
                    return stored
            except AdapterNotStored:
                continue  # removed meanwhile: ours takes the place
            except AdapterCorrupt:
                if _inode(path) == before:
                    self.remove(digest)
        raise AdapterStoreError(
            f"{digest}: expected to find it or take its place within {_ATTEMPTS} attempts"
        )

    def _read(self, path: Path, digest: AdapterDigest) -> StoredAdapter:
        try:
            record = read_record(path)
            found = {name: (path / name).stat().st_size for name in record.files}
        except FileNotFoundError:
            raise
        except OSError as error:
            raise AdapterStoreError(f"{digest}: the store failed: {error.strerror}") from error
        if record.manifest.digest != digest:
            raise AdapterCorrupt(f"{digest}: its record is of {record.manifest.digest}")
        if found != record.files:
            raise AdapterCorrupt(f"{digest}: expected files of {record.files}, found {found}")
        return _stored(path, record)

    def _renamed(self, folder: Path, path: Path) -> bool:
        with disk_errors(path.name):
            path.parent.mkdir(exist_ok=True)
            try:
                folder.rename(path)
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    return False
                raise
            return True

    def _sync_folders(self, path: Path) -> None:
        with disk_errors(path.name):
            for folder in (path.parent, self.root):
                _sync(folder)


def _stored(path: Path, record: StoredRecord) -> StoredAdapter:
    return StoredAdapter(
        record.manifest.digest,
        record.manifest,
        path,
        record.nbytes,
        record.tags,
        record.notes,
        record.base_check,
    )


@contextmanager
def _relative_messages(folder: Path, source: str) -> Iterator[None]:
    """Reword errors to name the source's files, not their temporary place."""
    try:
        yield
    except AdapterError as error:
        message = error.message.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
        message = message.replace(str(folder), source)
        if len(message) > MAX_MESSAGE_CHARS:
            message = f"{message[:MAX_MESSAGE_CHARS]}..."
        raise type(error)(message, param=error.param) from error


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _last_change(folder: Path) -> float:
    """Return the latest modification of a folder or anything in it; 0 if it is gone."""
    latest = 0.0
    for path in (folder, *(folder / name for name in _names(folder))):
        try:
            latest = max(latest, path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return latest


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return  # renamed into place, or swept by another process


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # removed meanwhile: there is nothing to keep
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
