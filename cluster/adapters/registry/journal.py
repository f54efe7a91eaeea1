"""Writes the registry's names to the content store, so that they outlive a loss of Redis's data.

One file next to the versions has the names with their histories, and the facts about versions that
their files do not have. Manifests are not in it; the store has them with each version.
"""

import os
import tempfile
from pathlib import Path

import msgspec

from cluster.adapters.adapter_store import INCOMING
from cluster.adapters.registry.records import AdapterVersion, Name, PlaceKind, RouterRecord
from cluster.adapters.registry.registry_view import RegistryView
from cluster.adapters.sources.files import disk_errors
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterCorrupt, AdapterStoreError


class KeptVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts about a version that its files do not have."""

    source: str
    added_at: float  # wall clock, seconds


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One state of the registry of one base model."""

    registry: str  # identity of the registry that it is of; see ``recovery.identify``
    names: tuple[Name, ...] = ()
    folder: dict[str, AdapterDigest] = {}
    versions: dict[AdapterDigest, KeptVersion] = {}  # those in the store
    routers: tuple[RouterRecord, ...] = ()


def journal_of(view: RegistryView, registry: str) -> Journal:
    """Extract the journal from a view."""
    return Journal(
        registry=registry,
        names=tuple(name for _, name in sorted(view.names.items())),
        folder=dict(sorted(view.folder.items())),
        versions={
            digest: _kept(version)
            for digest, version in sorted(view.versions.items())
            if version.place.kind is PlaceKind.STORE and version.names
        },
        routers=tuple(router for _, router in sorted(view.routers.items())),
    )


class JournalFile:
    """Reads and writes the journal on the store's volume; one per base model.

    Args:
        root: the store's folder.
        base: distinguishes the registries of base models; part of the file's name.
    """

    def __init__(self, root: Path, base: str) -> None:
        self.path = root / f".registry-{base}.json"

    def read(self) -> Journal | None:
        """Read the last journal written. Returns None if there is none.

        Raises:
            AdapterCorrupt: the file cannot be understood.
            AdapterStoreError: the disk refused.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise AdapterCorrupt(f"{self.path.name}: {error}") from error
        except OSError as error:
            raise AdapterStoreError(f"{self.path.name}: {error.strerror}") from error

    def write(self, journal: Journal) -> None:
        """Replace the file atomically; a process that is killed meanwhile leaves the old one.

        Raises:
            AdapterStoreError: the disk refused.
        """
        incoming = self.path.parent / INCOMING  # swept, should this process be killed
        with disk_errors(self.path.name):
            incoming.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=incoming) as folder:
                path = Path(folder) / self.path.name
                with path.open("wb") as file:
                    file.write(msgspec.json.encode(journal))
                    file.flush()
                    os.fsync(file.fileno())
                path.replace(self.path)


def _kept(version: AdapterVersion) -> KeptVersion:
    return KeptVersion(version.source, version.added_at)
