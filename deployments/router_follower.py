"""Keeps one thing built for every router: the configured ones and those that are added.

Fronts build routers this way, and replicas the parts of routers that run in their engines.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from cluster.adapters.registry.registry_view import RegistryView
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.errors import BraidError, ConfigError
from cluster.tasks import Tasks
from deployments.router_build import fingerprint

log = structlog.get_logger(__name__)

T = TypeVar("T")

Configs = Callable[[RegistryView], tuple[RouterConfig, ...]]
"""Lists all routers of a view, in their order."""
Build = Callable[[RouterConfig, Mapping[str, AdapterEntry]], T]
"""Builds one router, given all adapters by alias; runs in a thread."""


class SyncedView(Protocol):
    """The part of ``AdapterFollower`` that routers need."""

    @property
    def view(self) -> RegistryView: ...

    def on_change(self, listener: Callable[[RegistryView], None]) -> None: ...

    async def sync(self, since: float | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class BuildResult(Generic[T]):
    """One router as it was built, or the reason why it could not be."""

    fingerprint: str
    value: T | None = None
    error: BraidError | None = None


class RouterFollower(Generic[T]):
    """Builds routers as they are added and replaced, and drops those that are removed.

    Args:
        adapters: the registry, and the adapters that routers are made of.
        configs: lists the routers.
        build: builds one of them.
        on_built: called with all results, by name and in order, after each change.
        role: names this process in the log.
    """

    def __init__(
        self,
        adapters: SyncedView,
        configs: Configs,
        build: Build[T],
        on_built: Callable[[Mapping[str, BuildResult[T]]], None],
        *,
        role: str,
    ) -> None:
        self._adapters = adapters
        self._configs = configs
        self._build = build
        self._on_built = on_built
        self._role = role
        self._results: dict[str, BuildResult[T]] = {}
        self._lock = asyncio.Lock()
        self._tasks = Tasks()

    async def start(self, configured: tuple[RouterConfig, ...]) -> None:
        """Build all routers of the present view, and stay in sync until ``close``.

        Raises:
            ConfigError: one of the ``configured`` routers cannot be used with this base.
        """
        await self.rebuild()
        added = self._adapters.view.routers
        for router in configured:
            error = self._results[router.name].error
            # One without an artifact is made of adapters, which may be added later.
            replaced = router.name in added
            if isinstance(error, ConfigError) and router.path is not None and not replaced:
                raise error
        self._adapters.on_change(self._rebuild_soon)

    async def sync(self, since: float | None = None) -> None:
        """Sync the registry, then rebuild; see ``AdapterFollower.sync``."""
        await self._adapters.sync(since)
        await self.rebuild()

    async def rebuild(self) -> None:
        """Build what the present view has and this process has not, and drop the rest."""
        if not self._is_behind(self._adapters.view):
            return
        async with self._lock:
            view = self._adapters.view
            entries = view.entries()
            self._results = {
                router.name: await self._result(router, entries) for router in self._configs(view)
            }
            self._on_built(self._results)

    async def retry(self) -> None:
        """Sync, and build again what could not be built before."""
        await self._adapters.sync()
        async with self._lock:  # a build that is on its way may fail for the old reason
            self._results = {
                name: result for name, result in self._results.items() if result.error is None
            }
        await self.rebuild()

    async def close(self) -> None:
        """Stop syncing."""
        await self._tasks.cancel()

    def _is_behind(self, view: RegistryView) -> bool:
        entries = view.entries()
        desired = [(router.name, fingerprint(router, entries)) for router in self._configs(view)]
        return desired != [(name, result.fingerprint) for name, result in self._results.items()]

    def _rebuild_soon(self, view: RegistryView) -> None:
        if self._is_behind(view):
            self._tasks.start(self.rebuild())

    async def _result(
        self, router: RouterConfig, entries: Mapping[str, AdapterEntry]
    ) -> BuildResult[T]:
        """Return the router as it was built before, or build it now."""
        desired = fingerprint(router, entries)
        before = self._results.get(router.name)
        if before is not None and before.fingerprint == desired:
            return before
        try:
            return BuildResult(desired, await asyncio.to_thread(self._build, router, entries))
        except BraidError as error:
            log.error(f"{self._role}.router_refused", router=router.name, reason=error.message)
            return BuildResult(desired, error=error)
