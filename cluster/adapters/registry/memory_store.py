"""The registry's fields in one process: for tests, and the meaning of the Redis store."""

import asyncio
import contextlib
from collections.abc import Callable

from cluster.adapters.registry.registry_store import Changes, Fields, Revision

REMOVED_KEPT = 1_000
"""Removed fields that are remembered: a follower that has missed more reads everything again."""


class MemoryRegistryStore:
    """See ``RegistryStore``."""

    def __init__(self, new_epoch: Callable[[], str], removed_kept: int = REMOVED_KEPT) -> None:
        self._new_epoch = new_epoch
        self._removed_kept = removed_kept
        self._committed = asyncio.Event()
        self.lose_everything()

    def lose_everything(self) -> None:
        """As a server that restarts without its file."""
        self._revision = Revision()
        self._fields: dict[str, bytes] = {}
        self._changed: dict[str, int] = {}  # field -> number of the revision that changed it
        self._floor = 0  # changes up to this revision are no longer all known

    async def revision(self) -> Revision:
        """See ``RegistryStore``."""
        return self._revision

    async def changes(self, since: Revision) -> Changes:
        """See ``RegistryStore``."""
        known = since.epoch == self._revision.epoch and since.number >= self._floor
        if not known or since.number > self._revision.number:
            return Changes(self._revision, True, dict(self._fields))
        changed = [field for field, number in self._changed.items() if number > since.number]
        return Changes(self._revision, False, {field: self._fields.get(field) for field in changed})

    async def commit(self, expect: Fields, write: Fields) -> Revision | None:
        """See ``RegistryStore``."""
        if any(self._fields.get(field) != raw for field, raw in expect.items()):
            return None
        epoch = self._revision.epoch or self._new_epoch()
        self._revision = Revision(epoch, self._revision.number + 1)
        for field, raw in write.items():
            self._changed[field] = self._revision.number
            if raw is None:
                self._fields.pop(field, None)
            else:
                self._fields[field] = raw
        self._forget_removed()
        self._committed.set()
        self._committed = asyncio.Event()
        return self._revision

    async def wait(self, timeout_s: float) -> None:
        """See ``RegistryStore``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._committed.wait()

    async def close(self) -> None:
        """Nothing to let go of."""

    def _forget_removed(self) -> None:
        removed = sorted(self._changed.keys() - self._fields.keys(), key=self._changed.__getitem__)
        for field in removed[: max(0, len(removed) - self._removed_kept)]:
            self._floor = max(self._floor, self._changed.pop(field))
