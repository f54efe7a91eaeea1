"""DLP-LoRA (arXiv 2410.01497): a classifier of the prompt's text chooses adapters by nucleus.

u = classifier(text); prob = softmax(u) over the allowed candidates; nucleus, threshold or top-k
selection; weights = softmax over the kept probabilities. The base may be a candidate: its share
counts in selection and renormalisation and then has no effect, because its delta is zero.

With the option ``reroute: sentence`` the same is done again whenever a sentence of the answer has
ended, with the text of `TextPolicy`; what was computed before stays as it is.

The classifier is a mini-MLP (``mini_mlp``) or an imported Hugging Face encoder (``encoder``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from cluster.config import RouterConfig, Section
from cluster.domain.decision import CandidateScore, Granularity, tagged_digest
from cluster.errors import ConfigError
from router_service.artifacts import (
    RouterManifest,
    Tensors,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
)
from router_service.routers.base import (
    BASE_ALIAS,
    WEIGHT_DECIMALS,
    Declaration,
    Need,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.features import FeatureConfig, feature_ids
from router_service.routers.kind import RouterContext, RouterKind, artifact_path
from router_service.routers.mini_mlp import MiniMlp, NetworkConfig, tensor_shapes
from router_service.routers.segments import SegmentConfig
from router_service.routers.selection import (
    Method,
    Probability,
    Renormalise,
    SelectionConfig,
    renormalise,
    select,
    softmax,
)
from router_service.routers.text_policy import TextPolicy, read_text

KIND = "dlp"
_PROBABILITY_DECIMALS = 6
_SETTING: dict[Method, str] = {"nucleus": "top_p", "threshold": "threshold", "top_k": "top_k"}


class DlpHyperparameters(Section):
    """Everything that turns the artifact's tensors and a text into an answer."""

    architecture: Literal["mini_mlp"] = "mini_mlp"
    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()


class EncoderHyperparameters(Section):
    """The same for an artifact whose classifier is a Hugging Face encoder."""

    architecture: Literal["encoder"] = "encoder"
    max_tokens: Annotated[int, Field(ge=3)] = 256
    """Longer texts keep their last tokens, behind a new CLS."""
    files: dict[str, str]
    """sha256 of the encoder's configuration and of each tokenizer file, by name."""
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()


class DlpOptions(Section):
    """An operator's settings; each overrides the artifact's."""

    method: Method | None = None
    top_p: Probability | None = None
    threshold: Probability | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    renormalise: Renormalise | None = None
    max_fan_out: Annotated[int, Field(ge=1)] | None = None
    """The smaller of this, the artifact's and ``adapters.max_mixture`` counts."""
    prompt_characters: Annotated[int, Field(ge=1)] | None = None
    reroute: Literal["never", "sentence"] = "never"
    """Whether adapters are chosen again at each sentence's end."""
    min_sentence_characters: Annotated[int, Field(ge=1)] | None = None
    """A shorter sentence of an answer is joined with the next one."""
    answer_sentences: Annotated[int, Field(ge=1)] | None = None
    """How many last sentences of the answer are read beside the prompt."""


class TextClassifier(Protocol):
    """Logits over the candidates, in their order, from a text."""

    def logits(self, text: str) -> Sequence[float]:
        """u [N]; the same text gives the same logits."""
        ...


class MlpClassifier:
    """Hashed features and the mini-MLP."""

    def __init__(self, features: FeatureConfig, tensors: Tensors) -> None:
        self._features = features
        self._network = MiniMlp.from_tensors(tensors)

    def logits(self, text: str) -> list[float]:
        """u [N] of a text."""
        logits: list[float] = self._network.logits(feature_ids(text, self._features)).tolist()
        return logits


class DlpRouter:
    """A DLP router; holds no state between calls."""

    def __init__(
        self,
        name: str,
        manifest: RouterManifest,
        classifier: TextClassifier,
        selection: SelectionConfig,
        text: TextPolicy,
        *,
        by_sentence: bool = False,
    ) -> None:
        """``selection``, ``text`` and ``by_sentence`` are the artifact's or an operator's: part of
        the version."""
        self.name = name
        self.candidates = manifest.candidates
        self.selection = selection
        self.declares = Declaration(
            stage=Stage.SENTENCE if by_sentence else Stage.TEXT,
            granularity=Granularity.SENTENCE if by_sentence else Granularity.REQUEST,
            needs=frozenset({Need.TEXT}),
            max_fan_out=selection.max_fan_out,
        )
        self.version = tagged_digest(
            ("artifact", manifest.version.encode()),
            ("selection", selection.model_dump_json().encode()),
            ("text", text.model_dump_json().encode()),
            *((("reroute", b"sentence"),) if by_sentence else ()),
        )
        self._classifier = classifier
        self._text = text

    @classmethod
    def from_tensors(cls, name: str, manifest: RouterManifest, tensors: Tensors) -> "DlpRouter":
        """A mini-MLP router as it was trained."""
        trained = DlpHyperparameters.model_validate(manifest.hyperparameters)
        classifier = MlpClassifier(trained.features, tensors)
        return cls(name, manifest, classifier, trained.selection, trained.text)

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Candidates outside ``allowed`` are masked before the softmax."""
        return self._choose(read_text(self._text, text), allowed)

    @property
    def segments(self) -> SegmentConfig:
        """How sentences of an answer are told apart."""
        return self._text.segments

    def reading(self, prompt: str, answer: str) -> str:
        """The prompt's tail and the answer's last full sentences."""
        return read_text(self._text, prompt, answer)

    def reroute(self, prompt: str, answer: str, allowed: frozenset[str]) -> RoutedMixture:
        """The choice for what follows ``answer``, whose last sentence has just ended."""
        return self._choose(self.reading(prompt, answer), allowed)

    def _choose(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        aliases = [alias for alias in self.candidates if alias in allowed]
        if not aliases:
            return RoutedMixture((), ())
        logits = self._classifier.logits(text)
        if not np.isfinite(logits).all():
            raise RouterFailed(f"router {self.name!r} computed logits that are not finite")
        by_alias = dict(zip(self.candidates, logits, strict=True))
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
    options: DlpOptions | None = None,
    max_mixture: int | None = None,
) -> DlpRouter:
    """Load a router from its folder.

    Raises:
        ConfigError: see ``artifacts.load_artifact``; or tensors that do not fit the manifest, or an
            option of a method that is not in use.
    """
    manifest, tensors = load_artifact(path, kind=KIND, aliases=aliases, base_digest=base_digest)
    trained: DlpHyperparameters | EncoderHyperparameters
    classifier: TextClassifier
    if manifest.hyperparameters.get("architecture") == "encoder":
        from router_service.routers.encoder import load_encoder

        trained = parse_hyperparameters(path, manifest, EncoderHyperparameters)
        classifier = load_encoder(path, tensors, trained, len(manifest.candidates))
    else:
        trained = parse_hyperparameters(path, manifest, DlpHyperparameters)
        shapes = tensor_shapes(trained.network, trained.features.buckets, len(manifest.candidates))
        check_tensors(path, tensors, shapes)
        classifier = MlpClassifier(trained.features, tensors)
    changes: dict[str, Any] = (options or DlpOptions()).model_dump(exclude_none=True)
    by_sentence = changes.pop("reroute") == "sentence"
    text = trained.text.model_copy(
        update={
            k: changes.pop(k) for k in ("prompt_characters", "answer_sentences") if k in changes
        }
    )
    if "min_sentence_characters" in changes:
        segments = SegmentConfig(min_characters=changes.pop("min_sentence_characters"))
        text = text.model_copy(update={"segments": segments})
    limits = (changes.get("max_fan_out"), max_mixture, trained.selection.max_fan_out)
    changes["max_fan_out"] = min((n for n in limits if n is not None), default=None)
    selection = trained.selection.model_copy(update=changes)
    for method, field in _SETTING.items():
        if field in changes and method != selection.method:
            raise ConfigError(
                f"routers.{name}.options.{field}: goes with method {method}, and the method is "
                f"{selection.method}"
            )
    return DlpRouter(name, manifest, classifier, selection, text, by_sentence=by_sentence)


def _build(config: RouterConfig, options: DlpOptions, context: RouterContext) -> DlpRouter:
    return load_dlp(
        config.name,
        artifact_path(config),
        aliases=context.aliases,
        base_digest=context.base_digest,
        options=options,
        max_mixture=context.max_mixture,
    )


ROUTER_KIND = RouterKind(KIND, DlpOptions, _build)
