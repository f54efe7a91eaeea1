"""Keeps the store and the registry true to each other, through the loss of either's last words."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.registry.journal import Journal, JournalFile, journal_of
from cluster.adapters.registry.records import AdapterVersion, Place, PlaceKind, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterCorrupt

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class KeeperCounters:
    """Cumulative, since the controller started."""

    names_restored: int = 0
    uploads_swept: int = 0  # folders of additions whose process died
    orphans_removed: int = 0  # stored versions that nothing names


class RegistryKeeper:
    """One in the cluster; every step can be taken again after a restart, and by two at once.

    Args:
        folder: the configured folder's adapters by alias; names of the journal may need them.
        new_id: a random name for a registry that begins, or begins anew.
        uploads_older_s: an addition's folder in which nothing has changed for so long is dead.
        orphans_older_s: files that no record names are removed after so long.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        store: ContentStore,
        journal: JournalFile,
        clock: Clock,
        new_id: Callable[[], str],
        *,
        folder: Mapping[str, AdapterVersion],
        uploads_older_s: float,
        orphans_older_s: float,
    ) -> None:
        self._registry = registry
        self._store = store
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self._folder = folder
        self._uploads_older_s = uploads_older_s
        self._orphans_older_s = orphans_older_s
        self._written: Journal | None = None
        self.counters = KeeperCounters()

    async def keep(self) -> None:
        """Recover a registry that has lost its data, and write down what it says now.

        Raises:
            StoreUnavailable: the registry cannot be reached.
            AdapterStoreError: the store's disk refused.
            AdapterCorrupt: there is a journal that cannot be understood; nothing is overwritten.
        """
        view = await self._registry.refresh()
        if view.identity is None:
            kept = await asyncio.to_thread(self._journal.read)
            if kept is not None:
                await self._restore(kept)
            view = await self._registry.identify(self._new_id())
        if view.identity is None:
            return
        journal = journal_of(view, view.identity)
        if journal != self._written:
            await asyncio.to_thread(self._journal.write, journal)
            self._written = journal

    async def sweep(self) -> None:
        """Remove what dead additions left, and begin to remove what nothing names.

        Files that nobody names are those of an addition that ended between the store and the
        registry, or of a registry that was lost without its journal.

        Raises:
            StoreUnavailable, AdapterStoreError: as ``keep``.
        """
        swept = await asyncio.to_thread(self._store.sweep, self._uploads_older_s)
        self.counters.uploads_swept += swept
        digests = await asyncio.to_thread(self._store.digests)
        view = await self._registry.refresh()
        if view.identity is None:
            return  # not recovered yet
        for digest in digests:
            if digest not in view.versions and await self._is_old(digest):
                await self._condemn(digest)

    async def _is_old(self, digest: AdapterDigest) -> bool:
        age = await asyncio.to_thread(self._store.age_s, digest)
        return age is not None and age >= self._orphans_older_s

    async def _condemn(self, digest: AdapterDigest) -> None:
        try:
            orphan = await asyncio.to_thread(self._version, digest, "content store", 0.0)
        except AdapterCorrupt:
            await asyncio.to_thread(self._store.remove, digest)
        else:
            if orphan is None:
                return
            await self._registry.condemn(orphan)
        self.counters.orphans_removed += 1
        log.info("adapters.orphan", digest=digest)

    async def _restore(self, kept: Journal) -> None:
        await self._registry.sync_folder(self._folder)
        stored: dict[AdapterDigest, AdapterVersion] = {}
        for digest, about in kept.versions.items():
            try:
                version = await asyncio.to_thread(
                    self._version, digest, about.source, about.added_at
                )
            except AdapterCorrupt as error:
                log.error("registry.version_lost", digest=digest, reason=error.message)
                continue
            if version is not None:
                stored[digest] = version
        for name in kept.names:
            view = await self._registry.restore(name, kept, stored)
            found = view.names.get(name.id)
            if found is None:
                log.error("registry.name_lost", name=name.id, digest=name.digest)
            elif found.digest == name.digest:
                self.counters.names_restored += 1
            else:
                log.warning("registry.name_differs", name=name.id, digest=found.digest)
        await self._registry.restore_rest(kept)
        log.warning(
            "registry.restored",
            names=self.counters.names_restored,
            of=len(kept.names),
            versions=len(stored),
        )

    def _version(
        self, digest: AdapterDigest, source: str, added_at: float
    ) -> AdapterVersion | None:
        stored = self._store.get(digest)
        if stored is None:
            return None
        return AdapterVersion(
            manifest=stored.manifest,
            place=Place(PlaceKind.STORE),
            state=VersionState.STAGED,
            source=source,
            added_at=added_at,
            changed_at=self._clock.wall(),
            tags=stored.tags,
            notes=stored.notes,
            base_check=stored.base_check,
        )
