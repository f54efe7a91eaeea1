"""A run's state between two steps, in one safetensors file that is replaced atomically.

Weights, optimiser moments and the best weights so far are tensors; everything else is JSON in the
file's metadata. Nothing is pickled.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cluster.errors import ConfigError

Tensors = dict[str, torch.Tensor]


@dataclass
class TrainState:
    """State that a step needs from the steps before it."""

    fingerprint: str
    """Of settings, data and base; a checkpoint of another run is refused."""
    step: int = 0
    """Steps done."""
    losses: list[float] = field(default_factory=list)
    """Training loss of every step done."""
    best_step: int = 0
    best_loss: float | None = None
    """Lowest dev loss so far, and the step it was measured after."""
    evaluations_without_gain: int = 0
    weights: Tensors = field(default_factory=dict)
    moments: Tensors = field(default_factory=dict)
    """AdamW's, as `<parameter>/<moment>`."""
    best_weights: Tensors = field(default_factory=dict)


_TENSOR_FIELDS = ("weights", "moments", "best_weights")
_PLAIN_FIELDS = (
    "fingerprint", "step", "losses", "best_step", "best_loss", "evaluations_without_gain",
)  # fmt: skip


def save_state(path: Path, state: TrainState) -> None:
    """Write `state`; an interruption leaves the previous file whole.

    Raises:
        ConfigError: the disk refuses.
    """
    tensors = {
        f"{name}:{key}": tensor.contiguous()
        for name in _TENSOR_FIELDS
        for key, tensor in getattr(state, name).items()
    }
    plain = json.dumps({name: getattr(state, name) for name in _PLAIN_FIELDS})
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"state": plain})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise ConfigError(f"{path}: the checkpoint cannot be written: {error}") from error


def load_state(path: Path, fingerprint: str) -> TrainState:
    """Read a checkpoint of the run named by `fingerprint`.

    Raises:
        ConfigError: it is unreadable, or belongs to other settings, data or another base.
    """
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable checkpoint: {error}") from error
    state = TrainState(**plain)
    if state.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: belongs to a run with other settings, data or base model; "
            "start over with --overwrite"
        )
    for key, tensor in tensors.items():
        name, _, rest = key.partition(":")
        getattr(state, name)[rest] = tensor
    return state
