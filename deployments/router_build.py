"""Routers over adapters that come and go, and routers that come and go themselves.

`braid up` refuses a router whose adapters are missing. A process that is restarted after an
operator has removed or replaced one of them must not: the router continues without it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from cluster.adapters.registry.registry_view import RegistryView
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.errors import AdapterError, ConfigError
from router_service.artifacts.artifact_store import RouterStore
from router_service.artifacts.router_artifact import BASE_ALIAS, read_manifest
from router_service.router_kinds import default_registry
from router_service.routers.base import PromptRouter
from router_service.routers.kind import (
    SERVED_NEEDS,
    EnginePart,
    RouterContext,
    router_context,
)

log = structlog.get_logger(__name__)

STORE_FOLDER = "routers"
"""Of the adapters' store."""


@dataclass(frozen=True)
class BuiltRouters:
    """All routers of a front at one time."""

    routers: Mapping[str, PromptRouter] = field(default_factory=dict)  # the first answers `auto`
    bound: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By router, the version of each alias that it was made for, if it depends on it."""
    broken: Mapping[str, str] = field(default_factory=dict)  # by name, why it cannot answer


def router_store(config: AppConfig) -> RouterStore | None:
    """Return the store of added routers' artifacts, or None if none is configured."""
    root = config.adapters.store_dir
    return None if root is None else RouterStore(root / STORE_FOLDER)


def router_configs(config: AppConfig, view: RegistryView) -> tuple[RouterConfig, ...]:
    """Return the configured routers, then the added ones in the order in which their names came.

    A configured router is replaced by an added one of its name.
    """
    store = router_store(config)
    added = {
        router.name: RouterConfig(
            name=router.name,
            kind=router.kind,
            path=store.path(router.version) if store is not None and router.version else None,
            options=router.options,
        )
        for router in sorted(view.routers.values(), key=lambda r: (r.added_at, r.name))
    }
    configured = {router.name: router for router in config.routers}
    return tuple((configured | added).values())


def fingerprint(router: RouterConfig, adapters: Mapping[str, AdapterEntry]) -> str:
    """Return what a router is built from; a router with another fingerprint must be built again.

    One that has no artifact follows its adapters' versions.
    """
    versions = {}
    if router.path is None:
        named = router.options.get("adapters")
        aliases = named if isinstance(named, list | tuple) else ()
        versions = {str(a): str(adapters[a].key.digest) for a in aliases if a in adapters}
    return json.dumps([router.model_dump(mode="json"), versions], sort_keys=True)


def build_router(
    config: AppConfig,
    router: RouterConfig,
    adapters: Mapping[str, AdapterEntry],
    base: ModelLocation,
) -> PromptRouter:
    """Build one router; ``adapters`` by alias.

    Raises:
        ConfigError: it cannot be used with this base.
    """
    return default_registry().build(router, _context(config, router, adapters, base))


def build_part(
    config: AppConfig,
    router: RouterConfig,
    adapters: Mapping[str, AdapterEntry],
    base: ModelLocation,
) -> dict[str, EnginePart]:
    """Build the parts of a router that run inside the engine, by its version; may be empty.

    ``adapters`` have the paths of their files.

    Raises:
        ConfigError: it cannot be used with this base.
    """
    context = _context(config, router, adapters, base)
    try:
        return default_registry().build_parts((router,), context)
    except AdapterError as error:
        raise ConfigError(f"routers.{router.name}: {error.message}") from error


def bound_versions(router: RouterConfig) -> Mapping[str, str]:
    """Return the version of each alias that a router was made for, if it depends on it."""
    return {} if router.path is None else read_manifest(router.path).adapter_digests or {}


def candidates_of(router: RouterConfig) -> tuple[str, ...]:
    """Return the aliases that an artifact names, without the base; none without an artifact."""
    if router.path is None:
        return ()
    return tuple(a for a in read_manifest(router.path).candidates if a != BASE_ALIAS)


def added_path(config: AppConfig, version: str) -> Path:
    """Return the folder of an added router's artifact.

    Raises:
        ConfigError: ``adapters.store_dir`` is not configured here.
    """
    store = router_store(config)
    if store is None:
        raise ConfigError("adapters.store_dir: not configured, so no router can be added")
    return store.path(version)


def _context(
    config: AppConfig,
    router: RouterConfig,
    adapters: Mapping[str, AdapterEntry],
    base: ModelLocation,
) -> RouterContext:
    """Return a context with the router's own candidates, without versions it was not made for."""
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
