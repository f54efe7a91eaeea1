"""Artifacts that are bound to one base and to exact versions of their adapters."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from cluster.config import Section
from cluster.domain.adapter import AdapterEntry
from router_service.artifacts.router_artifact import (
    RouterManifest,
    Tensors,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
)

S = TypeVar("S", bound=Section)
Shapes = Callable[[S, int], Mapping[str, tuple[int, ...]]]
"""Lists the shapes of the tensors, from the hyper-parameters and the number of candidates."""


@dataclass(frozen=True)
class BoundArtifact(Generic[S]):
    """A verified artifact."""

    manifest: RouterManifest
    hyperparameters: S
    tensors: Tensors


def load_checked(
    path: Path,
    kind: str,
    hyperparameters: type[S],
    shapes: Shapes[S],
    *,
    aliases: Collection[str],
    base_digest: str | None,
    adapters: Mapping[str, AdapterEntry] | None,
) -> tuple[RouterManifest, S, Tensors]:
    """Read and verify an artifact of a kind; returns the fields of a `BoundArtifact`.

    Raises:
        ConfigError: as ``load_artifact``; or the tensors do not fit the manifest.
    """
    manifest, tensors = load_artifact(
        path, kind=kind, aliases=aliases, base_digest=base_digest, adapters=adapters
    )
    parsed = parse_hyperparameters(path, manifest, hyperparameters)
    check_tensors(path, tensors, shapes(parsed, len(manifest.candidates)))
    return manifest, parsed, tensors


def manifest_of(
    path: Path,
    kind: str,
    hyperparameters: S,
    shapes: Shapes[S],
    *,
    adapters: Mapping[str, str],
    base_digest: str,
    data_digest: str,
    tensors: Tensors,
    metrics: dict[str, float] | None,
) -> RouterManifest:
    """Make the manifest of an artifact and check its tensors; writes nothing.

    Args:
        path: folder of the artifact, for messages.
        adapters: alias -> digest, in the order of the candidates.

    Raises:
        ConfigError: the tensors do not fit the hyper-parameters.
    """
    manifest = RouterManifest(
        kind=kind,
        candidates=tuple(adapters),
        base_digest=base_digest,
        adapter_digests=dict(adapters),
        hyperparameters=hyperparameters.model_dump(mode="json"),
        data_digest=data_digest,
        metrics=metrics or {},
    )
    check_tensors(path, tensors, shapes(hyperparameters, len(adapters)))
    return manifest
