"""Routers over adapters that come and go: what is missing today may be added tomorrow.

`braid up` refuses a router whose adapters are not there. A process that is started anew, while an
operator has removed or replaced one of them, must not: the router goes on without it.
"""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.engine.model_source import ModelLocation
from router_service.artifacts import read_manifest
from router_service.routers.base import BASE_ALIAS, PromptRouter
from router_service.routers.kind import (
    SERVED_NEEDS,
    EnginePart,
    RouterContext,
    router_context,
)
from router_service.routers.registry import default_registry

log = structlog.get_logger(__name__)


def build_routers(
    config: AppConfig, adapters: Mapping[str, AdapterEntry], base: ModelLocation
) -> dict[str, PromptRouter]:
    """All routers by name, in their order; ``adapters`` by alias.

    Raises:
        ConfigError: one cannot be used with this base.
    """
    registry = default_registry()
    return {
        router.name: registry.build(router, _context(config, router, adapters, base))
        for router in config.routers
    }


def build_parts(
    config: AppConfig, adapters: Mapping[str, AdapterEntry], base: ModelLocation
) -> dict[str, EnginePart]:
    """What of the routers runs inside the engine, by the version of the router.

    Raises:
        ConfigError: one cannot be used with this base.
    """
    registry = default_registry()
    parts: dict[str, EnginePart] = {}
    for router in config.routers:
        parts |= registry.build_parts((router,), _context(config, router, adapters, base))
    return parts


def bound_generations(config: AppConfig) -> dict[str, Mapping[str, str]]:
    """By router, the generation of each alias that it was made for, where it depends on it."""
    return {
        router.name: read_manifest(router.path).adapter_digests or {}
        for router in config.routers
        if router.path is not None
    }


def _context(
    config: AppConfig,
    router: RouterConfig,
    adapters: Mapping[str, AdapterEntry],
    base: ModelLocation,
) -> RouterContext:
    """Knows the router's own candidates as aliases, and no generation that it was not made for."""
    known = dict(adapters)
    if router.path is not None:
        manifest = read_manifest(router.path)
        for alias in manifest.candidates:
            if alias != BASE_ALIAS and alias not in adapters:
                log.warning("router.candidate_missing", router=router.name, alias=alias)
        for alias, digest in (manifest.adapter_digests or {}).items():
            if alias in known and known[alias].key.digest != digest:
                log.warning("router.candidate_replaced", router=router.name, alias=alias)
                del known[alias]
    context = router_context(
        known, config.adapters.max_mixture, base.path, base.digest, provides=SERVED_NEEDS
    )
    if router.path is None:
        return context
    candidates = read_manifest(router.path).candidates
    return replace(context, aliases=context.aliases | set(candidates) - {BASE_ALIAS})
