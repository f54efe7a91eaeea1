"""Keeps a process's view of the registry up to date."""

import asyncio
from collections.abc import Mapping

import structlog

from cluster.adapters.registry.records import AdapterVersion
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.errors import BraidError

log = structlog.get_logger(__name__)

SYNC_INTERVAL_S = 0.25
"""Longest age of a view while Redis answers, not counting one round trip. Most changes are seen as
soon as they are made; a change is seen after this time if its announcement is lost."""


class RegistryFollower:
    """Syncs at each announced change and every ``interval_s``; the last view serves during outages.

    Args:
        folder: the configured folder's adapters by alias. They are registered at the start, and
            again if the registry was lost and has a new epoch.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        folder: Mapping[str, AdapterVersion],
        interval_s: float = SYNC_INTERVAL_S,
    ) -> None:
        self._registry = registry
        self._folder = dict(folder)
        self._interval_s = interval_s
        self._synced_epoch: str | None = None
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None
        """The reason why the last sync failed, or None."""

    async def start(self) -> None:
        """Sync once, then keep syncing. While Redis is down the configured folder alone serves."""
        await self.sync()
        if self.error is not None:
            self._registry.assume_folder(self._folder)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop syncing; the registry stays open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sync(self) -> None:
        """Bring the view up to date, or set ``error``."""
        try:
            view = await self._registry.sync()
            if view.revision.epoch != self._synced_epoch:
                view = await self._registry.sync_folder(self._folder)
                self._synced_epoch = view.revision.epoch
        except BraidError as error:
            if self.error is None:
                log.warning("registry.away", error=error.message)
            self.error = error.message
        else:
            if self.error is not None:
                log.info("registry.back")
            self.error = None

    async def _run(self) -> None:
        while True:
            await self._registry.wait(self._interval_s)
            await self.sync()
