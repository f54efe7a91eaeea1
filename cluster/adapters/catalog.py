"""Which adapters there are: alias -> version -> files.

One folder of PEFT folders; the alias is the folder's name and the owner is shared. A folder that
cannot be served is kept with its reason and never hides the others.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cluster.adapters.format.manifest import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, read_adapter
from cluster.domain.adapter import SHARED_OWNER, AdapterEntry, AdapterKey, AdapterRef
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterError, ConfigError, ModelNotFound

ALIAS_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
RESERVED_ALIASES = frozenset({"auto", "base"})


class AdapterRights(Protocol):
    """Who may use which adapter; a tenant is one."""

    def may_use(self, alias: str) -> bool:
        """Whether the adapter of this alias may be seen and used."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogProblem:
    """Why one folder is not served."""

    alias: str
    code: str  # of the BraidError
    message: str


class AdapterCatalog:
    """An immutable view of the adapters; scan again for a newer one.

    Several aliases may name one version.
    """

    def __init__(
        self,
        entries: Iterable[AdapterEntry] = (),
        problems: Iterable[CatalogProblem] = (),
        ignored: Iterable[str] = (),
    ) -> None:
        by_alias = {entry.key.alias: entry for entry in sorted(entries, key=lambda e: e.key.alias)}
        self.entries: Mapping[str, AdapterEntry] = MappingProxyType(by_alias)
        """Alias -> entry, in alphabetical order."""
        self.problems = tuple(problems)
        """Folders that hold an adapter which cannot be served."""
        self.ignored = tuple(ignored)
        """Names in the folder that are no adapters: plain files, folders without PEFT's files."""
        self._by_digest: dict[AdapterDigest, AdapterEntry] = {}
        for entry in by_alias.values():
            self._by_digest.setdefault(entry.key.digest, entry)

    @classmethod
    def scan(cls, folder: Path, *, reserved: Iterable[str] = ()) -> "AdapterCatalog":
        """Read every adapter folder in ``folder``; all their bytes are read once, for digests.

        ``reserved`` are names, beside "auto" and "base", that no alias may take: the base
        model's. Hidden names are skipped.

        Raises:
            ConfigError: ``folder`` itself is not a readable folder.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise ConfigError(f"adapters_dir: {folder}: {error.strerror}") from error
        forbidden = {name.lower() for name in (*RESERVED_ALIASES, *reserved)}
        entries: dict[str, AdapterEntry] = {}
        problems: list[CatalogProblem] = []
        ignored: list[str] = []
        for path in paths:
            alias = path.name
            if not _looks_like_adapter(path):
                ignored.append(alias)
                continue
            try:
                _check_alias(alias, path, folder, forbidden, entries)
                entries[alias] = _read_entry(alias, path, folder)
            except AdapterError as error:
                problems.append(CatalogProblem(alias, error.code, error.message))
        return cls(entries.values(), problems, ignored)

    def resolve(self, ref: AdapterRef, rights: AdapterRights) -> AdapterEntry:
        """What an alias means to a tenant.

        Raises:
            ModelNotFound: unknown or not permitted; the message does not tell which.
        """
        entry = self.entries.get(ref.alias)
        if entry is None or not rights.may_use(ref.alias):
            raise ModelNotFound(f"The model or adapter '{ref.alias}' does not exist", param="model")
        return entry

    def by_digest(self, digest: AdapterDigest) -> AdapterEntry:
        """The first alias of a version.

        Raises:
            ModelNotFound: no adapter has this digest.
        """
        entry = self._by_digest.get(digest)
        if entry is None:
            raise ModelNotFound(f"No adapter with digest {digest}")
        return entry

    def visible(self, rights: AdapterRights) -> tuple[AdapterEntry, ...]:
        """All that a tenant may use, by alias."""
        return tuple(e for alias, e in self.entries.items() if rights.may_use(alias))

    def __len__(self) -> int:
        return len(self.entries)


def _looks_like_adapter(path: Path) -> bool:
    names = (CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE)
    return path.is_dir() and any((path / name).exists() for name in names)


def _check_alias(
    alias: str, path: Path, folder: Path, forbidden: set[str], taken: Mapping[str, AdapterEntry]
) -> None:
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise AdapterError(f"{path}: an alias must match {ALIAS_PATTERN}, found {alias!r}")
    if alias.lower() in forbidden:
        raise AdapterError(f"{path}: the alias {alias!r} is reserved")
    for other in taken:
        if other.lower() == alias.lower():
            raise AdapterError(f"{path}: the alias differs from {other!r} by case only")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise AdapterError(f"{path}: a symlink out of {folder}, to {path.resolve()}")


def _read_entry(alias: str, path: Path, folder: Path) -> AdapterEntry:
    found = read_adapter(path, links_below=folder)
    key = AdapterKey(owner=SHARED_OWNER, alias=alias, digest=found.manifest.digest)
    return AdapterEntry(key, found.manifest, str(path), found.tags, found.notes)
