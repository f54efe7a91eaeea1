"""What routers share whose artifact is bound to exact versions and works inside the engine."""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from cluster.config import RouterConfig, Section
from router_service.artifacts import (
    RouterManifest,
    adapter_versions,
    load_artifact,
    parse_hyperparameters,
)
from router_service.routers.base import RouterFailed
from router_service.routers.kind import RouterContext, artifact_path

S = TypeVar("S", bound=Section)


class Bound(Protocol):
    """A loaded artifact."""

    @property
    def manifest(self) -> RouterManifest:
        """Its router.json."""
        ...


B = TypeVar("B", bound=Bound)


def read_bound(
    config: RouterConfig, context: RouterContext, kind: str, hyperparameters: type[S]
) -> tuple[RouterManifest, S]:
    """An artifact's manifest and hyper-parameters, for a front: its tensors are checked and left.

    Raises:
        ConfigError: it cannot be used here, or does not tell a version for each candidate.
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
    """An artifact with its tensors, for an engine, and the versions of its candidates in order.

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
        RouterFailed: the message names those that are not the tenant's.
    """
    missing = [alias for alias in candidates if alias not in allowed]
    if missing:
        raise RouterFailed(
            f"router {name!r} weighs adapters that the tenant may not use: {', '.join(missing)}"
        )
