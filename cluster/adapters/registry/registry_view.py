"""Parses one state of the registry, and resolves names for tenants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from cluster.adapters.catalog import AdapterRights
from cluster.adapters.registry.records import (
    FOLDER,
    IDENTITY,
    NAME,
    ROUTER,
    VERSION,
    AdapterVersion,
    Name,
    PlaceKind,
    RouterRecord,
    VersionState,
    decode,
    name_id,
)
from cluster.adapters.registry.registry_store import Changes, Revision
from cluster.domain.adapter import SHARED_OWNER, AdapterEntry, AdapterKey
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterNotFound, IntegrityError, ModelNotFound

EVERYONE = "*"

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class RegistryView:
    """Holds one state of the registry; immutable, ``after`` returns the next one."""

    revision: Revision = field(default_factory=Revision)
    names: Mapping[str, Name] = field(default_factory=dict)  # owner/alias -> name
    versions: Mapping[AdapterDigest, AdapterVersion] = field(default_factory=dict)
    folder: Mapping[str, AdapterDigest] = field(default_factory=dict)
    """Alias -> the version that the configured folder gave it last."""
    routers: Mapping[str, RouterRecord] = field(default_factory=dict)
    """Added routers by name, without the configured ones."""
    raw: Mapping[str, bytes] = field(default_factory=dict)  # as stored

    def after(self, changes: Changes) -> "RegistryView":
        """Return the view that results from ``changes``; without any, this one."""
        if not changes.full and not changes.fields and changes.revision == self.revision:
            return self
        start = RegistryView() if changes.full else self
        names, versions = dict(start.names), dict(start.versions)
        folder, routers, raw = dict(start.folder), dict(start.routers), dict(start.raw)
        for name, value in changes.fields.items():
            _put(raw, name, value)
            kind, key = name[:2], name[2:]
            if kind == NAME:
                _put(names, key, None if value is None else decode(name, value, Name))
            elif kind == VERSION:
                read = None if value is None else decode(name, value, AdapterVersion)
                _put(versions, AdapterDigest(key), read)
            elif kind == FOLDER:
                _put(folder, key, None if value is None else AdapterDigest(value.decode()))
            elif kind == ROUTER:
                _put(routers, key, None if value is None else decode(name, value, RouterRecord))
        return RegistryView(changes.revision, names, versions, folder, routers, raw)

    @property
    def identity(self) -> str | None:
        """The registry's identity, or None until ``recovery.identify``."""
        raw = self.raw.get(IDENTITY)
        return None if raw is None else raw.decode()

    # What tenants see

    def find(self, tenant: TenantId, alias: str, rights: AdapterRights) -> Name | None:
        """Find a tenant's name: its own before a shared one that it may use; None if unknown."""
        own = self.names.get(name_id(tenant, alias))
        if own is not None:
            return own
        shared = self.names.get(name_id(SHARED_OWNER, alias))
        return shared if shared is not None and may_use(shared, tenant, rights) else None

    def resolve(self, tenant: TenantId, alias: str, rights: AdapterRights) -> Name:
        """Return a tenant's name, as ``find``.

        Raises:
            ModelNotFound: unknown or not permitted; the message is the same for both.
        """
        name = self.find(tenant, alias, rights)
        if name is None:
            raise ModelNotFound(f"The model or adapter '{alias}' does not exist", param="model")
        return name

    def visible(self, tenant: TenantId, rights: AdapterRights) -> dict[str, Name]:
        """Return all names that a tenant may use, by alias."""
        found = {
            name.alias: name
            for name in self.names.values()
            if name.owner == SHARED_OWNER and may_use(name, tenant, rights)
        }
        found |= {name.alias: name for name in self.names.values() if name.owner == tenant}
        return dict(sorted(found.items()))

    # What operators and machines see

    def name(self, owner: TenantId, alias: str) -> Name:
        """Return a registered name.

        Raises:
            AdapterNotFound: there is none.
        """
        name = self.names.get(name_id(owner, alias))
        if name is None:
            whose = "" if owner == SHARED_OWNER else f" of {owner}"
            raise AdapterNotFound(f"there is no adapter {alias!r}{whose}", param="name")
        return name

    def version(self, digest: AdapterDigest) -> AdapterVersion:
        """Return a registered version, with or without a name.

        Raises:
            AdapterNotFound: there is none.
        """
        version = self.versions.get(digest)
        if version is None:
            raise AdapterNotFound(f"there is no version {digest}", param="version")
        return version

    def of_name(self, name: Name) -> AdapterVersion:
        """Return the version that a name points to.

        Raises:
            IntegrityError: it is not there.
        """
        version = self.versions.get(name.digest)
        if version is None:
            raise IntegrityError(f"registry: {name.id} points to {name.digest}, which is not there")
        return version

    def is_at_hand(self, digest: AdapterDigest) -> bool:
        """Return whether a version can still be loaded.

        Its files are in the store, or in the folder as that was last read.
        """
        version = self.versions.get(digest)
        if version is None or version.state is not VersionState.SERVED:
            return False
        place = version.place
        return place.kind is PlaceKind.STORE or self.folder.get(place.path) == digest

    def entry(
        self, name: Name, path: Callable[[AdapterVersion], str] = lambda _: ""
    ) -> AdapterEntry:
        """Return a name as an entry of a catalog."""
        return _entry(AdapterKey(name.owner, name.alias, name.digest), self.of_name(name), path)

    def entries(self, owner: TenantId = SHARED_OWNER) -> Mapping[str, AdapterEntry]:
        """Return an owner's names as a catalog, without paths, by alias."""
        return MappingProxyType(
            {
                name.alias: self.entry(name)
                for _, name in sorted(self.names.items())
                if name.owner == owner
            }
        )

    def by_digest(
        self, digest: AdapterDigest, path: Callable[[AdapterVersion], str] = lambda _: ""
    ) -> AdapterEntry:
        """Return a version as an entry of a catalog, under a name that has or had it.

        Raises:
            ModelNotFound: it is not registered.
        """
        version = self.versions.get(digest)
        if version is None:
            raise ModelNotFound(f"No adapter with digest {digest}")
        current = (n for n in version.names if self.names[n].digest == digest)
        name = next(current, next(iter(version.names), version.wanted_by))
        owner, _, alias = name.partition("/")
        key = AdapterKey(TenantId(owner or SHARED_OWNER), alias or digest[:12], digest)
        return _entry(key, version, path)

    @property
    def pinned(self) -> frozenset[AdapterDigest]:
        """Versions that pinned names point to."""
        return frozenset(name.digest for name in self.names.values() if name.pinned)

    def names_at(self, digest: AdapterDigest) -> tuple[Name, ...]:
        """Return the names that point to a version now."""
        version = self.versions.get(digest)
        names = (self.names[n] for n in (() if version is None else version.names))
        return tuple(name for name in names if name.digest == digest)

    def in_state(self, state: VersionState) -> tuple[AdapterVersion, ...]:
        """Return the versions in a state, by digest."""
        return tuple(v for _, v in sorted(self.versions.items()) if v.state is state)

    def check_integrity(self) -> None:
        """Verify that names and versions agree.

        Raises:
            IntegrityError: with what was found and what was expected.
        """
        known: dict[AdapterDigest, set[str]] = {}
        for key, name in self.names.items():
            if key != name.id or not name.history:
                raise IntegrityError(
                    f"registry: {key}: found {name.id} with {len(name.history)} steps"
                )
            for step in name.history:
                known.setdefault(step.digest, set()).add(key)
        for digest, version in self.versions.items():
            expected = sorted(known.pop(digest, ()))
            if sorted(version.names) != expected:
                raise IntegrityError(
                    f"registry: {digest}: found names {sorted(version.names)}, expected {expected}"
                )
            if bool(expected) != (version.state is VersionState.SERVED):
                raise IntegrityError(
                    f"registry: {digest}: found {version.state} with {len(expected)} names"
                )
        if known:
            raise IntegrityError(
                f"registry: found names of {len(known)} versions, expected 0: {sorted(known)}"
            )


def may_use(name: Name, tenant: TenantId, rights: AdapterRights) -> bool:
    """Return whether a tenant may use a shared name."""
    return rights.may_use(name.alias) or tenant in name.grants or EVERYONE in name.grants


def _entry(
    key: AdapterKey, version: AdapterVersion, path: Callable[[AdapterVersion], str]
) -> AdapterEntry:
    return AdapterEntry(
        key,
        version.manifest,
        path(version),
        version.tags,
        version.notes,
        version.base_check,
    )


def _put(mapping: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value
