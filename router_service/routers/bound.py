"""Loading of artifacts that are bound to exact versions and work inside the engine."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from cluster.config import RouterConfig, Section
from router_service.artifacts.bound_artifact import BoundArtifact
from router_service.artifacts.router_artifact import (
    RouterManifest,
    adapter_versions,
    load_artifact,
    parse_hyperparameters,
)
from router_service.routers.base import RouterFailed
from router_service.routers.kind import RouterContext, artifact_path

S = TypeVar("S", bound=Section)


B = TypeVar("B", bound=BoundArtifact[Any])


def read_bound(
    config: RouterConfig, context: RouterContext, kind: str, hyperparameters: type[S]
) -> tuple[RouterManifest, S]:
    """Read an artifact's manifest and hyper-parameters, for a front; its tensors are checked only.

    Raises:
        ConfigError: it cannot be used here, or has no version for some candidate.
    """
    path = artifact_path(config)
    manifest, _ = load_artifact(
        path,
        kind=kind,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    parsed = parse_hyperparameters(path, manifest, hyperparameters)
    adapter_versions(path, manifest)
    return manifest, parsed


def load_bound(
    config: RouterConfig, context: RouterContext, load: Callable[..., B]
) -> tuple[B, tuple[str, ...]]:
    """Load an artifact with its tensors, for an engine, and list the versions of its candidates.

    Args:
        load: the kind's own, with the keyword arguments of `load_artifact` but its kind.

    Raises:
        ConfigError: as `read_bound`, or its tensors are not what its hyper-parameters say.
    """
    path = artifact_path(config)
    loaded = load(
        path,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    return loaded, adapter_versions(path, loaded.manifest)


def require_all(name: str, candidates: Collection[str], allowed: Collection[str]) -> None:
    """Refuse a tenant that may not use all adapters of a router that weighs all of them.

    Raises:
        RouterFailed: the message names the adapters that are not the tenant's.
    """
    missing = [alias for alias in candidates if alias not in allowed]
    if missing:
        raise RouterFailed(
            f"router {name!r} weighs adapters that the tenant may not use: {', '.join(missing)}"
        )
