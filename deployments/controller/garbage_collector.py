"""Collects versions that no name points to: unloaded everywhere, then deleted."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.registry.follower import SYNC_INTERVAL_S
from cluster.adapters.registry.records import AdapterVersion, PlaceKind, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_view import RegistryView
from cluster.clock import Clock
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterInUse
from cluster.placement.planning.plan import AdapterInfo

log = structlog.get_logger(__name__)

GRACE_S = 4 * SYNC_INTERVAL_S
"""A front may decide on a name's old version this long after it was switched or removed: the
age of its view, and the way of a request to its replica."""

Unload = Callable[[tuple[AdapterDigest, ...]], Awaitable[list[frozenset[AdapterDigest]] | None]]


class GarbageCollector:
    """Frees what is retired. One in the cluster; every step can be taken again after a restart.

    Args:
        store: of the files, or None if none is configured.
        unload: asks every replica to unload versions. Returns what is gone, by replica, or None
            if one did not answer.
        abandon_after_s: a version that is staged for so long is retired.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        store: ContentStore | None,
        unload: Unload,
        clock: Clock,
        *,
        abandon_after_s: float,
    ) -> None:
        self._registry = registry
        self._store = store
        self._unload = unload
        self._clock = clock
        self._abandon_after_s = abandon_after_s

    async def tick(self) -> tuple[AdapterDigest, ...]:
        """Collect what can be collected now, and return it.

        Raises:
            StoreUnavailable: the registry cannot be reached; nothing is lost.
            AdapterStoreError: files could not be removed; they are tried again.
        """
        view = self._registry.view
        now = self._clock.wall()
        for version in view.in_state(VersionState.STAGED):
            if now - version.changed_at >= self._abandon_after_s:
                await self._registry.retire_staged(version.digest)
        due = [g for g in view.in_state(VersionState.RETIRED) if now - g.changed_at >= GRACE_S]
        gone = await self._gone(tuple(version.digest for version in due))
        leaving = [g for g in due if g.digest in gone]
        leaving += view.in_state(VersionState.COLLECTING)
        return tuple([g.digest for g in leaving if await self._forget(g)])

    async def _gone(self, digests: tuple[AdapterDigest, ...]) -> frozenset[AdapterDigest]:
        if not digests:
            return frozenset()
        answers = await self._unload(digests)
        if answers is None:
            return frozenset()
        return frozenset(digests).intersection(*answers)

    async def _forget(self, version: AdapterVersion) -> bool:
        digest = version.digest
        try:
            await self._registry.begin_collect(digest)
        except AdapterInUse:
            return False  # it has come back
        if version.place.kind is PlaceKind.STORE and self._store is not None:
            await asyncio.to_thread(self._store.remove, digest)
        await self._registry.finish_collect(digest)
        log.info("adapters.forgotten", digest=digest)
        return True


class PlaceableAdapters:
    """Lists the versions that placement may use; the same tuple for as long as a view stays.

    Args:
        view: returns the registry's present view.
    """

    def __init__(self, view: Callable[[], RegistryView]) -> None:
        self._view = view
        self._listed_of: RegistryView | None = None
        self._listed: tuple[AdapterInfo, ...] = ()

    def __call__(self) -> tuple[AdapterInfo, ...]:
        """Return each version that a name points to, once."""
        view = self._view()
        if view is not self._listed_of:
            infos: dict[AdapterDigest, AdapterInfo] = {}
            for name in view.names.values():
                nbytes = view.of_name(name).manifest.nbytes
                infos.setdefault(
                    name.digest, AdapterInfo(name.digest, name.alias, name.owner, nbytes)
                )
            self._listed_of, self._listed = view, tuple(infos.values())
        return self._listed
