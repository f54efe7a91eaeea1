"""A front's routers, rebuilt when the registry changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from deployments.router_build import BuiltRouters, bound_versions, build_router, router_configs
from deployments.router_follower import BuildResult, RouterFollower, SyncedView
from router_service.routers.base import PromptRouter


@dataclass(frozen=True, slots=True)
class FrontRouter:
    """One router, and the version of each alias that it was made for, if it depends on it."""

    router: PromptRouter
    bound: Mapping[str, str]


class FrontRouters:
    """Keeps the routers of one front in sync with the registry.

    Args:
        use: called with every new set of routers; running requests keep the old ones.
    """

    def __init__(
        self,
        adapters: SyncedView,
        config: AppConfig,
        base: ModelLocation,
        use: Callable[[BuiltRouters], None],
    ) -> None:
        self._configured = config.routers
        self._use = use
        self.present = BuiltRouters()

        def build(router: RouterConfig, entries: Mapping[str, AdapterEntry]) -> FrontRouter:
            made = build_router(config, router, entries, base)
            return FrontRouter(made, dict(bound_versions(router)))

        self._follower = RouterFollower(
            adapters,
            lambda view: router_configs(config, view),
            build,
            self._adopt,
            role="front",
        )

    async def start(self) -> None:
        """Build all routers, and stay in sync until ``close``.

        Raises:
            ConfigError: a configured router cannot be used with this base.
        """
        await self._follower.start(self._configured)

    async def sync(self, since: float | None = None) -> None:
        """Sync adapters and routers; see ``AdapterFollower.sync``."""
        await self._follower.sync(since)

    async def rebuild(self) -> None:
        """Build what the present view has and this front has not, and drop the rest."""
        await self._follower.rebuild()

    async def close(self) -> None:
        """Stop syncing."""
        await self._follower.close()

    def _adopt(self, results: Mapping[str, BuildResult[FrontRouter]]) -> None:
        built = {name: found.value for name, found in results.items() if found.value is not None}
        self.present = BuiltRouters(
            routers={name: item.router for name, item in built.items()},
            bound={name: built[name].bound if name in built else {} for name in results},
            broken={n: found.error.message for n, found in results.items() if found.error},
        )
        self._use(self.present)
