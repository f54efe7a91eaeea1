"""Trainings that minimise the loss of completions and nothing else."""

from collections.abc import Sequence
from typing import Any

import torch

from training.encoding import EncodedExample, collate
from training.loss import completion_loss
from training.run import Parameters


class CompletionTrainee:
    """A model with trainable parameters under the loss of completions; part of a `Trainee`."""

    def __init__(self, model: Any, parameters: Parameters, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self.parameters = parameters
        self.dev_parameters: Parameters = {}

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        """Compute the loss to minimise: a scalar with gradient."""
        return completion_loss(self._model, collate(examples, pad_id=self._pad_id))

    def dev_loss(self, examples: Sequence[EncodedExample]) -> float:
        """Compute the mean nats per answer token, as served."""
        return float(self.loss(examples))
