"""Artifacts of routers by version: ``root/<version>/`` holds one, as it was trained.

``root`` lies beside the adapters' versions, on the volume that fronts and replicas share. What
is visible under a version is complete: it is gathered in a private folder and renamed into place.
"""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.files import CHUNK_BYTES, FileWriter, disk_errors
from cluster.errors import ConfigError, RouterError
from router_service.artifacts import (
    MANIFEST_FILE,
    TENSOR_FILE,
    RouterManifest,
    load_artifact,
    read_manifest,
)
from router_service.routers.base import BASE_ALIAS

ENCODER_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip
KEPT_FILES = (MANIFEST_FILE, TENSOR_FILE, *(f"encoder/{name}" for name in ENCODER_FILES))
"""All that is ever written: the rest of an archive is left where it is."""
INCOMING = ".incoming"

_VERSION = re.compile(r"[0-9a-f]{64}")


class RouterStore:
    """Safe under concurrent tasks and processes that share ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, version: str) -> Path:
        """Where an artifact is, or would be."""
        return self.root / version

    def add(self, packed: BinaryIO, budget: ByteBudget) -> RouterManifest:
        """Unpack a .tar of an artifact, check it, and put it under its version.

        Raises:
            RouterError: no archive, or no artifact; the message names the file.
            AdapterTooLarge, AdapterTooManyFiles: beyond the budget.
            AdapterStoreError: the disk refused.
        """
        with self._private_folder() as folder:
            _unpack(packed, folder, budget)
            manifest = _checked(folder)
            with disk_errors(manifest.version):
                if not self.path(manifest.version).exists():
                    _rename(folder, self.path(manifest.version))
        return manifest

    def remove_others(self, kept: Collection[str], before: float) -> tuple[str, ...]:
        """Delete artifacts that are not among ``kept`` and came before a time (wall clock, s).

        Raises:
            AdapterStoreError: the disk refused.
        """
        removed = []
        with disk_errors(str(self.root)):
            for path in sorted(self.root.iterdir()) if self.root.exists() else ():
                old = path.stat().st_mtime < before
                if old and path.name not in kept and _VERSION.fullmatch(path.name):
                    shutil.rmtree(path)
                    removed.append(path.name)
        return tuple(removed)

    @contextmanager
    def _private_folder(self) -> Iterator[Path]:
        incoming = self.root / INCOMING
        with disk_errors(INCOMING):
            incoming.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=incoming))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _unpack(packed: BinaryIO, into: Path, budget: ByteBudget) -> None:
    """The kept files of a plain .tar; nothing else is written, and no member's path is used."""
    try:
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                budget.count_file("upload")
                name = member.name.removeprefix("./")
                if not member.isreg() or name not in KEPT_FILES:
                    continue
                budget.unpack(member.size, f"upload: {name}")
                source = archive.extractfile(member)
                assert source is not None  # of a regular file
                target = into / name
                target.parent.mkdir(exist_ok=True)
                target.unlink(missing_ok=True)
                with FileWriter(target, budget) as file:
                    while block := source.read(CHUNK_BYTES):
                        file.write(block)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise RouterError(f"upload: not a .tar archive: {error}") from error


def _checked(folder: Path) -> RouterManifest:
    """The manifest, its version compared with the content."""
    try:
        manifest = read_manifest(folder)
        aliases = set(manifest.candidates) - {BASE_ALIAS}
        load_artifact(folder, kind=manifest.kind, aliases=aliases, base_digest=None)
    except ConfigError as error:
        raise RouterError(error.message.replace(f"{folder}/", "")) from error
    return manifest


def _rename(folder: Path, path: Path) -> None:
    """Into place, unless somebody else was first with the same bytes."""
    folder.chmod(0o755)  # made for this process alone; other pods read it
    try:
        folder.rename(path)
    except OSError:
        if not path.exists():
            raise
