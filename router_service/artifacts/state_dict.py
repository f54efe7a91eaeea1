"""Tensors of torch: to arrays, and from files without running code that a pickle may have."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from cluster.errors import ConfigError

_READ_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """Copy tensors to the CPU in fp32, as an artifact has them."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of a pickle that has tensors and nothing
    else.

    Raises:
        ConfigError: unreadable, or not a dict of tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: not a state dict of tensors: {reason[0]}") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ConfigError(f"{path}: not a state dict of tensors")
    return dict(state)
