"""A fixed mixture under a name: an average, weights of one's own, or searched ones.

The weights are applied to the adapters' outputs, so any real up to ``MAX_WEIGHT`` will do and
nothing is renormalised. A tenant that may not use all of the adapters cannot be served: the rest of
a mixture is another mixture.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cluster.config import RouterConfig, Section
from cluster.domain.adapter import AdapterEntry
from cluster.domain.decision import Granularity
from cluster.errors import ConfigError
from router_service.artifacts import (
    RouterManifest,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
    save_artifact,
)
from router_service.outputs import claim_folder, writing
from router_service.routers.base import (
    BASE_ALIAS,
    MAX_WEIGHT,
    WEIGHT_DECIMALS,
    Declaration,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.kind import RouterContext, RouterKind, artifact_path

KIND = "static"
_WEIGHTS = "weights"


class StaticHyperparameters(Section):
    """Where the weights come from."""

    method: Literal["explicit", "average", "search"] = "explicit"
    training: dict[str, Any] = Field(default_factory=dict)
    """How a search was made, for people."""


class StaticOptions(Section):
    """A static mixture has no settings."""


class StaticRouter:
    """Answers every prompt with one mixture."""

    def __init__(self, name: str, manifest: RouterManifest, weights: tuple[float, ...]) -> None:
        self.name = name
        self.version = manifest.version
        self.candidates = manifest.candidates
        self._answer = RoutedMixture(
            tuple((a, w) for a, w in zip(manifest.candidates, weights, strict=True) if w), ()
        )
        self.declares = Declaration(
            stage=Stage.ADMISSION,
            granularity=Granularity.REQUEST,
            needs=frozenset(),
            max_fan_out=len(self._answer.weights),
        )

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """The mixture, whatever the text."""
        del text
        lacking = [alias for alias, _ in self._answer.weights if alias not in allowed]
        if lacking:
            raise RouterFailed(
                f"router {self.name!r} is a mixture with {', '.join(lacking)}, "
                "which the tenant may not use"
            )
        return self._answer


def save_static(
    path: Path,
    weights: Mapping[str, float],
    *,
    method: Literal["explicit", "average", "search"] = "explicit",
    adapter_digests: dict[str, str] | None = None,
    training: dict[str, Any] | None = None,
    data_digest: str = "",
    metrics: dict[str, float] | None = None,
    overwrite: bool = False,
) -> RouterManifest:
    """Write a mixture (weights by alias, rounded as served) as an artifact.

    ``adapter_digests`` binds it to these versions.

    Raises:
        ConfigError: a weight is not finite or too large, or ``path`` cannot be written or has a
            result already.
    """
    claim_folder(path, overwrite=overwrite)
    check_weights(weights)
    hyperparameters = StaticHyperparameters(method=method, training=training or {})
    rounded = [round(weight, WEIGHT_DECIMALS) for weight in weights.values()]
    manifest = RouterManifest(
        kind=KIND,
        candidates=tuple(weights),
        adapter_digests=adapter_digests,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        data_digest=data_digest,
        metrics=metrics or {},
    )
    with writing(path):
        return save_artifact(path, manifest, {_WEIGHTS: np.array(rounded, dtype=np.float64)})


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise ConfigError for a weight that no adapter can have."""
    for alias, weight in weights.items():
        if not math.isfinite(weight) or alias == BASE_ALIAS:
            raise ConfigError(f"{alias or '(base)'}={weight}: not a weight of an adapter")
        if abs(weight) > MAX_WEIGHT:
            raise ConfigError(
                f"{alias}={weight:g}: expected a weight of at most {MAX_WEIGHT:g} either way"
            )


def load_static(
    name: str, path: Path, *, adapters: Mapping[str, AdapterEntry], aliases: frozenset[str]
) -> StaticRouter:
    """Load a mixture from its folder.

    Raises:
        ConfigError: see ``artifacts.load_artifact``; or a weight beyond ``MAX_WEIGHT``.
    """
    manifest, tensors = load_artifact(
        path, kind=KIND, aliases=aliases, base_digest=None, adapters=adapters
    )
    parse_hyperparameters(path, manifest, StaticHyperparameters)
    check_tensors(path, tensors, {_WEIGHTS: (len(manifest.candidates),)})
    check_weights(dict(zip(manifest.candidates, tensors[_WEIGHTS].tolist(), strict=True)))
    return StaticRouter(name, manifest, tuple(tensors[_WEIGHTS].tolist()))


def _build(config: RouterConfig, options: StaticOptions, context: RouterContext) -> StaticRouter:
    del options
    return load_static(
        config.name, artifact_path(config), adapters=context.adapters, aliases=context.aliases
    )


ROUTER_KIND = RouterKind(KIND, StaticOptions, _build)
