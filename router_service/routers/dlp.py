"""DLP-LoRA (arXiv 2410.01497): a mini-MLP over the prompt's text chooses adapters by nucleus.

u = MLP(text); prob = softmax(u) over the allowed candidates; nucleus selection; weights = softmax
over the kept probabilities. The base may be a candidate: its share counts in selection and
renormalisation and then has no effect, because its delta is zero.
"""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cluster.config import Section
from cluster.domain.decision import CandidateScore, Granularity, tagged_digest
from cluster.errors import ConfigError
from router_service.artifacts import (
    MANIFEST_FILE,
    RouterManifest,
    Tensors,
    check_tensors,
    load_artifact,
)
from router_service.routers.base import (
    BASE_ALIAS,
    WEIGHT_DECIMALS,
    Need,
    RoutedMixture,
    RouterFailed,
)
from router_service.routers.features import FeatureConfig, feature_ids
from router_service.routers.mini_mlp import MiniMlp, NetworkConfig, tensor_shapes
from router_service.routers.selection import SelectionConfig, renormalise, select, softmax

KIND = "dlp"
_PROBABILITY_DECIMALS = 6


class DlpHyperparameters(Section):
    """Everything that turns the artifact's tensors and a text into an answer."""

    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    selection: SelectionConfig = SelectionConfig()


class DlpRouter:
    """A trained DLP router; holds no state between calls."""

    needs = frozenset({Need.TEXT})
    granularity = Granularity.REQUEST

    def __init__(
        self,
        name: str,
        manifest: RouterManifest,
        tensors: Tensors,
        selection: SelectionConfig | None = None,
    ) -> None:
        """``selection`` overrides the artifact's and then becomes part of the version."""
        trained = DlpHyperparameters.model_validate(manifest.hyperparameters)
        self.name = name
        self.candidates = manifest.candidates
        self.selection = selection or trained.selection
        self.version = tagged_digest(
            ("artifact", manifest.version.encode()),
            ("selection", self.selection.model_dump_json().encode()),
        )
        self._features = trained.features
        self._network = MiniMlp.from_tensors(tensors)

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Candidates outside ``allowed`` are masked before the softmax."""
        aliases = [alias for alias in self.candidates if alias in allowed]
        if not aliases:
            return RoutedMixture((), ())
        logits = self._network.logits(feature_ids(text, self._features))
        if not np.isfinite(logits).all():
            raise RouterFailed(f"router {self.name!r} computed logits that are not finite")
        by_alias = dict(zip(self.candidates, logits.tolist(), strict=True))
        probabilities = softmax([by_alias[alias] for alias in aliases])
        kept = select(probabilities, self.selection)
        weights = renormalise([probabilities[index] for index in kept], self.selection.renormalise)
        rounded = {
            index: round(weight, WEIGHT_DECIMALS)
            for index, weight in zip(kept, weights, strict=True)
        }
        return RoutedMixture(
            weights=tuple(
                (alias, rounded[index])
                for index, alias in enumerate(aliases)
                if alias != BASE_ALIAS and rounded.get(index)
            ),
            scores=tuple(
                CandidateScore(
                    alias, round(probability, _PROBABILITY_DECIMALS), kept=index in rounded
                )
                for index, (alias, probability) in enumerate(
                    zip(aliases, probabilities, strict=True)
                )
            ),
        )


def load_dlp(
    name: str,
    path: Path,
    *,
    aliases: frozenset[str],
    base_digest: str | None = None,
    top_p: float | None = None,
    max_fan_out: int | None = None,
) -> DlpRouter:
    """Load a router from its folder.

    ``top_p`` and ``max_fan_out`` override the artifact's; the smaller fan-out counts.

    Raises:
        ConfigError: see ``artifacts.load_artifact``; or tensors that do not fit the manifest.
    """
    manifest, tensors = load_artifact(path, kind=KIND, aliases=aliases, base_digest=base_digest)
    trained = _hyperparameters(path, manifest)
    check_tensors(
        path,
        tensors,
        tensor_shapes(trained.network, trained.features.buckets, len(manifest.candidates)),
    )
    changes: dict[str, object] = {}
    if top_p is not None:
        changes["top_p"] = top_p
    limits = [n for n in (max_fan_out, trained.selection.max_fan_out) if n is not None]
    changes["max_fan_out"] = min(limits, default=None)
    return DlpRouter(name, manifest, tensors, trained.selection.model_copy(update=changes))


def _hyperparameters(path: Path, manifest: RouterManifest) -> DlpHyperparameters:
    try:
        return DlpHyperparameters.model_validate(manifest.hyperparameters)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path / MANIFEST_FILE}: hyperparameters.{field}: {first['msg']}"
        ) from error
