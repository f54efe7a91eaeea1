"""Training batches for a router: every step's batch is a function of the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.routers.features import FeatureConfig, token_features, tokenize
from training.dlp.router_config import RouterTrainingConfig
from training.dlp.router_data import FOLLOW_UP, LabelledText
from training.schedule import batch_indices

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class TextBatch:
    """Padded features with target distributions."""

    ids: torch.Tensor  # int64 [B, T]
    mask: torch.Tensor  # bool [B, T], true at features
    targets: torch.Tensor  # float32 [B, N]


class BatchSource:
    """Draws batches of texts, varied as the settings say."""

    def __init__(
        self,
        examples: Sequence[LabelledText],
        classes: Sequence[str],
        config: RouterTrainingConfig,
    ) -> None:
        self._config = config
        self._features = config.hyperparameters.features
        self._classes = {alias: index for index, alias in enumerate(classes)}
        self._tokens = [tokenize(e.text, self._features.max_tokens) for e in examples]
        self._labels = [self._classes[e.label] for e in examples]
        self.batch_size = min(config.batch_size, len(examples))
        """Of different texts; the settings may ask for more than there are."""

    def batch(self, step: int) -> TextBatch:
        """Make the batch of step `step` (from 0)."""
        config = self._config
        rng = Random(f"{config.seed}/batch/{step}")
        indices = batch_indices(
            step,
            n_examples=len(self._tokens),
            batch_size=self.batch_size,
            seed=config.seed,
        )
        rows = []
        for index in indices:
            rows.append((self._vary(rng, self._tokens[index]), {self._labels[index]: 1.0}))
            if rng.random() < config.blend_share:
                rows += self._blend(rng, index)
            if BASE_ALIAS in self._classes and rng.random() < config.background_share:
                words = [_made_up(rng) for _ in range(rng.randint(1, 24))]
                rows.append((words, {self._classes[BASE_ALIAS]: 1.0}))
        return collate(
            [token_features(tokens, self._features) for tokens, _ in rows],
            [targets for _, targets in rows],
            len(self._classes),
        )

    def _vary(self, rng: Random, tokens: list[str]) -> list[str]:
        """Drop and replace words of the text; never returns an empty text."""
        drop = rng.random() * self._config.word_dropout
        noise = rng.random() * self._config.word_noise
        kept = [
            _made_up(rng) if rng.random() < noise else token
            for token in tokens
            if rng.random() >= drop
        ]
        return kept or tokens

    def _blend(self, rng: Random, index: int) -> list[tuple[list[str], dict[int, float]]]:
        """Join the text with one of another adapter; returns nothing if there is no such pair."""
        other = rng.randrange(len(self._tokens))
        labels = self._labels[index], self._labels[other]
        apart = {self._classes.get(BASE_ALIAS), self._classes.get(FOLLOW_UP)}
        if labels[0] == labels[1] or not apart.isdisjoint(labels):
            return []
        tokens = self._vary(rng, self._tokens[index]) + self._vary(rng, self._tokens[other])
        return [(tokens, {labels[0]: 0.5, labels[1]: 0.5})]


def plain_batch(
    examples: Sequence[LabelledText], classes: Sequence[str], features: FeatureConfig
) -> TextBatch:
    """Encode the texts unchanged."""
    index_of = {alias: index for index, alias in enumerate(classes)}
    return collate(
        [token_features(tokenize(e.text, features.max_tokens), features) for e in examples],
        [{index_of[e.label]: 1.0} for e in examples],
        len(classes),
    )


def collate(
    features: Sequence[list[int]], targets: Sequence[dict[int, float]], n_classes: int
) -> TextBatch:
    """Pad to the longest row."""
    longest = max(len(ids) for ids in features)
    ids = torch.zeros(len(features), longest, dtype=torch.int64)
    mask = torch.zeros(len(features), longest, dtype=torch.bool)
    dense = torch.zeros(len(features), n_classes)
    for row, (row_ids, row_targets) in enumerate(zip(features, targets, strict=True)):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        mask[row, : len(row_ids)] = True
        for label, share in row_targets.items():
            dense[row, label] = share
    return TextBatch(ids, mask, dense)


def _made_up(rng: Random) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(2, 9)))
