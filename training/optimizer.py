"""AdamW's state as named tensors."""

from collections.abc import Mapping

import torch

from training.checkpoint import Tensors


def moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]) -> Tensors:
    """Copy moments and step count of every parameter stepped so far, as ``<parameter>/<name>``."""
    return {
        f"{name}/{moment}": value.clone()
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor], saved: Tensors
) -> None:
    """Put saved moments back."""
    for key, value in saved.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[parameters[name]][moment] = value.clone()
