"""A front's routers: the configured ones and those that were added, built anew when they change."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cluster.adapters.registry.registry_view import RegistryView
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, RouterConfig
from cluster.errors import BraidError, ConfigError
from deployments.live_adapters import LiveAdapters
from deployments.live_routers import (
    BuiltRouters,
    bound_versions,
    build_router,
    fingerprint,
    router_configs,
)
from router_service.routers.base import PromptRouter

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Built:
    fingerprint: str
    router: PromptRouter | None = None
    bound: dict[str, str] = field(default_factory=dict)
    problem: str = ""  # why there is no router
    error: ConfigError | None = None


class FrontRouters:
    """Follows the registry. One per front.

    Args:
        use: called with every new set of routers; the present requests go on with the old ones.
    """

    def __init__(
        self,
        live: LiveAdapters,
        config: AppConfig,
        base: ModelLocation,
        use: Callable[[BuiltRouters], None],
    ) -> None:
        self._live = live
        self._config = config
        self._base = base
        self._use = use
        self._built: dict[str, _Built] = {}
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.present = BuiltRouters()

    async def start(self) -> None:
        """Build all that there is, and follow.

        Raises:
            ConfigError: a configured router cannot be used with this base.
        """
        await self.sync()
        added = self._live.view.routers
        for router in self._config.routers:
            built = self._built[router.name]
            # One without an artifact is made of adapters, which may be added later.
            if built.error is not None and router.path is not None and router.name not in added:
                raise built.error
        self._live.on_change(self._follow)

    async def sync(self) -> None:
        """Have every router of the present view, and no other."""
        if not self._is_behind(self._live.view):
            return
        async with self._lock:
            view = self._live.view
            configs = router_configs(self._config, view)
            built = {router.name: await self._kept(router, view) for router in configs}
            self._built = built
            self.present = BuiltRouters(
                {name: item.router for name, item in built.items() if item.router is not None},
                {name: item.bound for name, item in built.items()},
                {name: item.problem for name, item in built.items() if item.problem},
            )
            self._use(self.present)

    async def catch_up(self, since: float | None = None) -> None:
        """Look again, at adapters and routers, unless that was begun after ``since``."""
        await self._live.catch_up(since)
        await self.sync()

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_behind(self, view: RegistryView) -> bool:
        entries = view.entries()
        wanted = [
            (router.name, fingerprint(router, entries))
            for router in router_configs(self._config, view)
        ]
        return wanted != [(name, built.fingerprint) for name, built in self._built.items()]

    def _follow(self, view: RegistryView) -> None:
        if self._is_behind(view):
            task = asyncio.create_task(self.sync())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _kept(self, router: RouterConfig, view: RegistryView) -> _Built:
        """As it was built before, or built now."""
        entries = view.entries()
        wanted = fingerprint(router, entries)
        built = self._built.get(router.name)
        if built is not None and built.fingerprint == wanted:
            return built
        try:
            made = await asyncio.to_thread(build_router, self._config, router, entries, self._base)
            return _Built(wanted, made, dict(bound_versions(router)))
        except ConfigError as error:
            log.error("front.router_refused", router=router.name, reason=error.message)
            return _Built(wanted, problem=error.message, error=error)
        except BraidError as error:
            log.error("front.router_refused", router=router.name, reason=error.message)
            return _Built(wanted, problem=error.message)
