"""DLP-LoRA (arXiv 2410.01497): a classifier of the prompt's text chooses adapters by nucleus.

u = classifier(text); prob = softmax(u) over all candidates; the probability of those that the
tenant may not use is added to the base's; the base alone answers where no adapter is likely enough;
else nucleus, threshold or top-k selection, and weights = softmax over the kept probabilities.

In a conversation, a turn that goes on with the one before takes over from its decision
(``follow_ups``). With the option ``reroute: sentence`` the choice is made again whenever a sentence
of the answer has ended, with the text of `TextPolicy`; what was computed before stays as it is.

The classifier is a mini-MLP (``mini_mlp``) or an imported Hugging Face encoder (``encoder``).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from cluster.config import RouterConfig, Section
from cluster.domain.decision import Granularity, tagged_digest
from router_service.artifacts import (
    RouterManifest,
    Tensors,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
)
from router_service.dlp.dlp_options import DlpOptions, apply_options
from router_service.dlp.mini_mlp import MiniMlp, NetworkConfig, tensor_shapes
from router_service.routers.base import (
    BASE_ALIAS,
    Declaration,
    Need,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.features import FeatureConfig, feature_ids
from router_service.routers.follow_ups import RULE_SHARE, carry_over, looks_like_follow_up
from router_service.routers.kind import RouterContext, RouterKind, artifact_path
from router_service.routers.mixture_choice import choose_mixture
from router_service.routers.selection import SelectionConfig, softmax
from router_service.routers.sentences import SentenceConfig
from router_service.routers.text_policy import TextPolicy, read_earlier, read_text

KIND = "dlp"


class DlpHyperparameters(Section):
    """Everything that turns the artifact's tensors and a text into an answer."""

    architecture: Literal["mini_mlp"] = "mini_mlp"
    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()
    follow_ups: bool = False
    """Whether the first output, before the candidates', tells that a text goes on with the turn
    before it."""

    def outputs(self, candidates: int) -> int:
        """Outputs of a network with as many candidates."""
        return candidates + self.follow_ups


class EncoderHyperparameters(Section):
    """The same for an artifact whose classifier is a Hugging Face encoder."""

    architecture: Literal["encoder"] = "encoder"
    max_tokens: Annotated[int, Field(ge=3)] = 256
    """Longer texts keep their last tokens, behind a new CLS."""
    files: dict[str, str]
    """sha256 of the encoder's configuration and of each tokenizer file, by name."""
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()


class TextClassifier(Protocol):
    """Logits over the candidates, in their order, from a text.

    Before them comes that of a text that goes on with the turn before, where the router has it.
    """

    def logits(self, text: str) -> Sequence[float]:
        """u [N], or [1 + N]; the same text gives the same logits."""
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
        follow_ups: bool = False,
    ) -> None:
        """``selection``, ``text`` and ``by_sentence`` are the artifact's or an operator's: part of
        the version. ``follow_ups``: see `DlpHyperparameters`."""
        self.name = name
        self.candidates = manifest.candidates
        self.selection = selection
        self.declares = Declaration(
            stage=Stage.SENTENCE if by_sentence else Stage.TEXT,
            granularity=Granularity.SENTENCE if by_sentence else Granularity.REQUEST,
            needs=frozenset({Need.TEXT}),
            max_fan_out=selection.max_fan_out,
            history=text.history,
        )
        self.version = tagged_digest(
            ("artifact", manifest.version.encode()),
            ("selection", selection.model_dump_json().encode()),
            ("text", text.model_dump_json().encode()),
            ("masked", b"base"),
            *((("reroute", b"sentence"),) if by_sentence else ()),
        )
        self._classifier = classifier
        self._text = text
        self._follow_ups = follow_ups
        others = () if BASE_ALIAS in manifest.candidates else (BASE_ALIAS,)
        self._classes = (*manifest.candidates, *others)
        self._base = self._classes.index(BASE_ALIAS)

    @classmethod
    def from_tensors(cls, name: str, manifest: RouterManifest, tensors: Tensors) -> "DlpRouter":
        """A mini-MLP router as it was trained."""
        trained = DlpHyperparameters.model_validate(manifest.hyperparameters)
        classifier = MlpClassifier(trained.features, tensors)
        return cls(
            name,
            manifest,
            classifier,
            trained.selection,
            trained.text,
            follow_ups=trained.follow_ups,
        )

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """The probability of candidates outside ``allowed`` is the base's."""
        return self._choose(read_text(self._text, text), allowed, earlier)

    @property
    def sentences(self) -> SentenceConfig:
        """How sentences of an answer are told apart."""
        return self._text.sentences

    def reading(self, prompt: str, answer: str) -> str:
        """The prompt's tail and the answer's last full sentences."""
        return read_text(self._text, prompt, answer)

    def reroute(
        self, prompt: str, answer: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        """The choice for what follows ``answer``, whose last sentence has just ended."""
        return self._choose(self.reading(prompt, answer), allowed, earlier)

    def _choose(self, text: str, allowed: frozenset[str], earlier: Sequence[str]) -> RoutedMixture:
        if (allowed - {BASE_ALIAS}).isdisjoint(self.candidates):
            return choose_mixture({BASE_ALIAS: 1.0}, allowed, self.selection)
        turns = [text, *reversed(read_earlier(self._text, earlier))]
        probabilities = carry_over(self._turns(turns), self._base, self._text.carry)
        by_alias = {
            alias: p
            for alias, p in zip(self._classes, probabilities, strict=True)
            if p > 0 or alias in self.candidates
        }
        return choose_mixture(by_alias, allowed, self.selection)

    def _turns(self, turns: Sequence[str]) -> Iterator[tuple[list[float], float]]:
        """Each turn's own probabilities, and that it goes on with the next of ``turns``."""
        unknown = [0.0] * (len(self._classes) - len(self.candidates))
        for index, turn in enumerate(turns):
            logits = self._classifier.logits(turn)
            if not np.isfinite(logits).all():
                raise RouterFailed(f"router {self.name!r} computed logits that are not finite")
            probabilities = softmax(logits)
            if self._follow_ups:
                continues, *own = probabilities
            else:
                follows = index + 1 < len(turns) and looks_like_follow_up(turn)
                continues = RULE_SHARE if follows else 0.0
                own = [p * (1 - continues) for p in probabilities]
            yield own + unknown, continues


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
        from router_service.dlp.encoder import load_encoder

        trained = parse_hyperparameters(path, manifest, EncoderHyperparameters)
        classifier = load_encoder(path, tensors, trained, len(manifest.candidates))
    else:
        trained = parse_hyperparameters(path, manifest, DlpHyperparameters)
        outputs = trained.outputs(len(manifest.candidates))
        shapes = tensor_shapes(trained.network, trained.features.buckets, outputs)
        check_tensors(path, tensors, shapes)
        classifier = MlpClassifier(trained.features, tensors)
    chosen = options or DlpOptions()
    selection, text = apply_options(
        name,
        chosen,
        trained.selection,
        trained.text,
        max_mixture=max_mixture,
        has_base=BASE_ALIAS in manifest.candidates,
    )
    return DlpRouter(
        name,
        manifest,
        classifier,
        selection,
        text,
        by_sentence=chosen.reroute == "sentence",
        follow_ups=isinstance(trained, DlpHyperparameters) and trained.follow_ups,
    )


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
