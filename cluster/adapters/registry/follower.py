"""Keeps a process's view of the registry fresh."""

import asyncio
from collections.abc import Mapping

import structlog

from cluster.adapters.registry.records import AdapterVersion
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.errors import BraidError

log = structlog.get_logger(__name__)

FOLLOW_INTERVAL_S = 0.25
"""How old a view may be while Redis answers, beside the time of one round trip. Most changes are
seen as soon as they are made; one whose announcement is lost is seen after this."""


class RegistryFollower:
    """Looks at each announced change, and now and then besides; while nobody answers the last view
    serves.

    Args:
        folder: the configured folder's adapters by alias. They are registered at the start, and
            again where the registry was lost and begun anew.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        folder: Mapping[str, AdapterVersion],
        interval_s: float = FOLLOW_INTERVAL_S,
    ) -> None:
        self._registry = registry
        self._folder = dict(folder)
        self._interval_s = interval_s
        self._synced_epoch: str | None = None
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None
        """Why the last look failed, or None."""

    async def start(self) -> None:
        """Look once, then follow. Where nobody answers, the folder alone is what there is."""
        await self.look()
        if self.error is not None:
            self._registry.assume_folder(self._folder)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking; the registry stays open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Bring the view up to date, or note why not."""
        try:
            view = await self._registry.refresh()
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
            await self.look()
