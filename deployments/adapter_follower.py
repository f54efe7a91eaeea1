"""The adapters as one process sees them: the registry, the configured folder, and the files."""

import contextlib
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.registry.follower import RegistryFollower
from cluster.adapters.registry.records import (
    AdapterVersion,
    Place,
    PlaceKind,
    VersionState,
)
from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_view import RegistryView
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.clock import Clock
from cluster.config import AdapterConfig, AppConfig
from cluster.domain.adapter import AdapterEntry, BaseCheck
from cluster.domain.ids import AdapterDigest
from cluster.domain.model_names import base_names
from cluster.errors import AdapterLoadFailed, StoreUnavailable
from cluster.redis_client import redis_client
from cluster.redis_server import check_server
from deployments.cluster_secrets import Secrets

REDIS_TIMEOUT_S = 1.0
NO_BASE = BaseShapes("", {})
"""For a store that is only read."""


class AdapterFollower:
    """Keeps one process's view of the registry in sync, from its start to its end.

    If Redis is down at the start, the view has the configured folder's adapters alone.

    Args:
        catalog: the configured folder, as it was scanned.
    """

    def __init__(
        self, registry: AdapterRegistry, catalog: AdapterCatalog, config: AppConfig, clock: Clock
    ) -> None:
        self.registry = registry
        self.catalog = catalog
        self.folder = folder_versions(catalog, clock.wall())
        """The configured folder's adapters as versions, by alias."""
        self.adapters_dir = config.adapters_dir
        self._store = content_store(config.adapters, NO_BASE)
        self._follower = RegistryFollower(registry, self.folder)
        self._check: Callable[[], Awaitable[None]] | None = None

    @classmethod
    def build(
        cls,
        config: AppConfig,
        secrets: Secrets,
        clock: Clock,
        model_id: str,
        catalog: AdapterCatalog,
    ) -> "AdapterFollower":
        """Return a follower of the registry on the cluster's Redis."""
        client = redis_client(secrets.redis_url, timeout_s=REDIS_TIMEOUT_S, name="braid-adapters")
        store = RedisRegistryStore(client, model_id, lambda: uuid.uuid4().hex)
        registry = AdapterRegistry(store, clock, reserved=base_names(model_id))
        follower = cls(registry, catalog, config, clock)
        follower._check = partial(check_server, client)
        return follower

    @property
    def view(self) -> RegistryView:
        """Return the present view; never waits."""
        return self.registry.view

    @property
    def away(self) -> str | None:
        """Return why the registry cannot be read now, or None."""
        return self._follower.error

    def on_change(self, listener: Callable[[RegistryView], None]) -> None:
        """Call ``listener`` with every new view."""
        self.registry.on_change(listener)

    async def start(self) -> None:
        """Register the configured folder, sync, and stay in sync until ``close``.

        Raises:
            ConfigError: the Redis server is of a form that is not supported.
        """
        if self._check is not None:
            await self._check()
        await self._follower.start()

    async def close(self) -> None:
        """Stop syncing, and close the registry."""
        await self._follower.close()
        await self.registry.close()

    async def sync(self, since: float | None = None) -> None:
        """Read what changed in the registry; while Redis is down the view stays.

        Args:
            since: monotonic seconds; a sync that began later, by any caller, is enough.
        """
        with contextlib.suppress(StoreUnavailable):
            await self.registry.sync(since)

    async def sync_for(self, digests: tuple[AdapterDigest, ...]) -> None:
        """Sync if one of these versions is unknown: its caller has a newer view than this one."""
        if any(digest not in self.view.versions for digest in digests):
            await self.sync()

    def by_digest(self, digest: AdapterDigest) -> AdapterEntry:
        """Return a version with the path of its files.

        Raises:
            ModelNotFound: it is not registered.
            AdapterLoadFailed: it is, but this process does not know where its files are.
        """
        return self.view.by_digest(digest, self.path_of)

    def path_of(self, version: AdapterVersion) -> str:
        """Return the folder of a version's files on this machine.

        Raises:
            AdapterLoadFailed: ``adapters_dir`` or ``adapters.store_dir`` is not configured here.
        """
        if version.place.kind is PlaceKind.FOLDER and self.adapters_dir is not None:
            return str(self.adapters_dir / version.place.path)
        if version.place.kind is PlaceKind.STORE and self._store is not None:
            stored = self._store.get(version.digest)
            if stored is not None:
                return str(stored.path)
        raise AdapterLoadFailed(
            f"version {version.digest}: its files ({version.place.kind}) are not here"
        )


def folder_versions(catalog: AdapterCatalog, now: float) -> dict[str, AdapterVersion]:
    """Return the configured folder's adapters as versions, by alias.

    ``now`` is wall clock, in seconds.
    """
    return {
        alias: AdapterVersion(
            manifest=entry.manifest,
            place=Place(PlaceKind.FOLDER, Path(entry.path).name),
            state=VersionState.STAGED,
            source=f"adapters_dir {alias}",
            added_at=now,
            changed_at=now,
            tags=entry.tags,
            notes=entry.notes,
        )
        for alias, entry in catalog.entries.items()
    }


def content_store(
    config: AdapterConfig, base: BaseShapes, base_check: BaseCheck | None = None
) -> ContentStore | None:
    """Return the configured store, or None if none is configured.

    ``base_check`` applies to the adapter that is added now.
    """
    if config.store_dir is None:
        return None
    limits = AdapterLimits.from_config(config, base_check)
    return ContentStore(config.store_dir, limits, base, base_check=base_check)
