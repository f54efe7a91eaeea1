"""Errors for a training whose numbers are no longer finite."""

import math

import torch

from cluster.errors import ConfigError
from training.checkpoint import Tensors


class Diverged(ConfigError):
    """A loss or a weight is infinite or not a number."""


def check_loss(loss: float, what: str, *, step: int, rate: float) -> None:
    """Raise Diverged unless ``loss``, measured in step ``step`` (from 1), is finite."""
    if math.isfinite(loss):
        return
    if step == 1 and what == "training":
        raise Diverged(
            f"the {what} loss is {loss} before anything was learned: expected a finite number; "
            "raise --temperature, or look at the base model and its adapters"
        )
    raise Diverged(
        f"learning_rate: the {what} loss is {loss} at step {step}, expected a finite number: "
        f"the training has diverged; lower --lr, here {rate:g}"
    )


def check_weights(weights: Tensors, *, step: int, rate: float) -> None:
    """Raise Diverged unless all that was trained is finite."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise Diverged(
                f"learning_rate: {name} is not finite after step {step}: the training has "
                f"diverged; lower --lr, here {rate:g}"
            )
