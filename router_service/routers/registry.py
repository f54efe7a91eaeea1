"""Router kinds by name, and the routers of an application."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.config import RouterConfig
from cluster.errors import ConfigError
from router_service.routers import dlp
from router_service.routers.base import Need, PromptRouter


@dataclass(frozen=True, slots=True)
class RouterContext:
    """What the application gives its routers."""

    aliases: frozenset[str]  # of every adapter in the catalog
    max_mixture: int  # most adapters in one mixture
    base_digest: str | None = None
    provides: frozenset[Need] = frozenset({Need.TEXT})


RouterFactory = Callable[[RouterConfig, RouterContext], PromptRouter]


class RouterRegistry:
    """Maps a router's kind to the factory that builds it."""

    def __init__(self) -> None:
        self._factories: dict[str, RouterFactory] = {}

    def register(self, kind: str, factory: RouterFactory) -> None:
        """Add a kind.

        Raises:
            ConfigError: the kind is taken.
        """
        if kind in self._factories:
            raise ConfigError(f"router kind {kind!r} is registered twice")
        self._factories[kind] = factory

    def build(self, config: RouterConfig, context: RouterContext) -> PromptRouter:
        """One router.

        Raises:
            ConfigError: an unknown kind, an artifact that cannot be used, or a need that this
                application does not provide.
        """
        factory = self._factories.get(config.kind)
        if factory is None:
            known = ", ".join(sorted(self._factories)) or "none"
            raise ConfigError(f"routers.{config.name}: no kind {config.kind!r}; there are: {known}")
        router = factory(config, context)
        lacking = router.needs - context.provides
        if lacking:
            raise ConfigError(
                f"routers.{config.name}: needs {', '.join(sorted(lacking))}, not provided here"
            )
        return router

    def build_all(
        self, configs: Iterable[RouterConfig], context: RouterContext
    ) -> dict[str, PromptRouter]:
        """All routers by name, in their order: the first one answers ``auto``.

        Raises:
            ConfigError: see ``build``; or two of one name.
        """
        routers: dict[str, PromptRouter] = {}
        for config in configs:
            if config.name in routers:
                raise ConfigError(f"routers.{config.name}: named twice")
            routers[config.name] = self.build(config, context)
        return routers


def default_registry() -> RouterRegistry:
    """A registry with every kind that Braid has."""
    registry = RouterRegistry()
    registry.register(dlp.KIND, _build_dlp)
    return registry


def _build_dlp(config: RouterConfig, context: RouterContext) -> PromptRouter:
    return dlp.load_dlp(
        config.name,
        config.path,
        aliases=context.aliases,
        base_digest=context.base_digest,
        top_p=config.top_p,
        max_fan_out=context.max_mixture,
    )
