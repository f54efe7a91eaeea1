"""Keeps a process's view of the registry fresh."""

import asyncio
from collections.abc import Callable

import structlog

from cluster.adapters.registry.registry import AdapterRegistry
from cluster.errors import BraidError

log = structlog.get_logger(__name__)

FOLLOW_INTERVAL_S = 0.25
"""How old a view may be while Redis answers, beside the time of one round trip."""


class RegistryFollower:
    """Asks for the version again and again; while nobody answers the last view serves.

    Args:
        tick: called after every look, whether or not there was anything new.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        interval_s: float = FOLLOW_INTERVAL_S,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._registry = registry
        self._interval_s = interval_s
        self._tick = tick
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None
        """Why the last look failed, or None."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking; the registry stays open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._registry.refresh()
            except BraidError as error:
                if self.error is None:
                    log.warning("registry.away", error=error.message)
                self.error = error.message
            else:
                if self.error is not None:
                    log.info("registry.back")
                self.error = None
            if self._tick is not None:
                self._tick()
            await asyncio.sleep(self._interval_s)
