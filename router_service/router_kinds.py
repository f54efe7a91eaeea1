"""Router kinds by name, and the routers of an application.

A new kind is one module and one line in ``default_registry``; ``RouterKind`` is all that it gives.
"""

from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from cluster.adapters.validation.inside_model import check_weighable
from cluster.config import RouterConfig, Section
from cluster.errors import AdapterUnsupported, ConfigError
from cluster.field_problems import first_problem
from router_service.artifacts.router_artifact import read_manifest
from router_service.dlp import dlp_router
from router_service.flow import flow_router
from router_service.milora import milora_router
from router_service.routers import arrow, static
from router_service.routers.base import PromptRouter
from router_service.routers.kind import (
    EnginePart,
    RouterContext,
    RouterKind,
    artifact_path,
)

S = TypeVar("S", bound=Section)


class RouterRegistry:
    """Maps a router's kind to what builds it."""

    def __init__(self, kinds: Iterable[RouterKind] = ()) -> None:
        self._kinds: dict[str, RouterKind] = {}
        for kind in kinds:
            self.register(kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of all kinds, in alphabetical order."""
        return tuple(sorted(self._kinds))

    def register(self, kind: RouterKind) -> None:
        """Add a kind.

        Raises:
            ConfigError: its name is taken.
        """
        if kind.name in self._kinds:
            raise ConfigError(f"router kind {kind.name!r} is registered twice")
        self._kinds[kind.name] = kind

    def build(self, config: RouterConfig, context: RouterContext) -> PromptRouter:
        """Build one router.

        Raises:
            ConfigError: an unknown kind or option, an artifact that cannot be used, or a need that
                this application or its base model does not meet. The message has router and field.
        """
        kind = self._kind(config)
        router = kind.build(config, _options(config, kind.options), context)
        check_declaration(config.name, router, context)
        return router

    def build_all(
        self, configs: Iterable[RouterConfig], context: RouterContext
    ) -> dict[str, PromptRouter]:
        """Build all routers by name, in their order: the first one answers ``auto``.

        Raises:
            ConfigError: see ``build``; or two of one name.
        """
        routers: dict[str, PromptRouter] = {}
        for config in configs:
            if config.name in routers:
                raise ConfigError(f"routers.{config.name}: named twice")
            routers[config.name] = self.build(config, context)
        return routers

    def build_parts(
        self, configs: Iterable[RouterConfig], context: RouterContext
    ) -> dict[str, EnginePart]:
        """Build the parts of routers that run inside the engine, by the version of the router.

        Raises:
            ConfigError: see ``build``.
        """
        parts: dict[str, EnginePart] = {}
        for config in configs:
            router = self.build(config, context)
            kind = self._kind(config)
            if kind.part is not None:
                options = _options(config, kind.options)
                part = parts[router.version] = kind.part(config, options, context)
                _check_adapters(config.name, part, context)
        return parts

    def _kind(self, config: RouterConfig) -> RouterKind:
        name = config.kind or read_manifest(artifact_path(config)).kind
        kind = self._kinds.get(name)
        if kind is None:
            known = ", ".join(self.kinds) or "none"
            raise ConfigError(f"routers.{config.name}: no kind {name!r}; there are: {known}")
        return kind


def check_declaration(name: str, router: PromptRouter, context: RouterContext) -> None:
    """Refuse a router whose needs are not met.

    Raises:
        ConfigError: with router and field.
    """
    declared = router.declares
    lacking = declared.needs - context.provides
    if lacking:
        raise ConfigError(f"routers.{name}: needs {', '.join(sorted(lacking))}, not provided here")
    if declared.max_fan_out is not None and declared.max_fan_out > context.max_mixture:
        raise ConfigError(
            f"routers.{name}: max_fan_out: gives mixtures of up to {declared.max_fan_out} "
            f"adapters, but {context.max_mixture} are served (adapters.max_mixture)"
        )
    for field_name, wanted, served in (
        ("layers", declared.layers, context.base_layers),
        ("width", declared.width, context.base_width),
    ):
        if wanted is not None and served is not None and wanted != served:
            raise ConfigError(
                f"routers.{name}: {field_name}: reads the states of a base with {wanted}, "
                f"but the base served has {served}"
            )


def _check_adapters(name: str, part: EnginePart, context: RouterContext) -> None:
    """Refuse adapters that cannot be weighed inside the engine.

    Raises:
        ConfigError: with router and adapter.
    """
    for alias, entry in context.adapters.items():
        if entry.key.digest in part.digests:
            try:
                check_weighable(alias, entry.manifest)
            except AdapterUnsupported as error:
                raise ConfigError(f"routers.{name}: {error.message}") from error


def default_registry() -> RouterRegistry:
    """Make a registry with every kind that Braid has."""
    return RouterRegistry(
        [
            arrow.ROUTER_KIND,
            dlp_router.ROUTER_KIND,
            flow_router.ROUTER_KIND,
            milora_router.ROUTER_KIND,
            static.ROUTER_KIND,
        ]
    )


def _options(config: RouterConfig, kind: type[S]) -> S:
    try:
        return kind.model_validate(config.options)
    except ValidationError as error:
        raise ConfigError(f"routers.{config.name}.options.{first_problem(error)}") from error
