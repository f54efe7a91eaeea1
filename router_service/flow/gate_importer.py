"""Gate files as the authors of LoRA-Flow publish them, made into artifacts.

Such a file is a pickled dict of fp16 tensors, ``encoder.layers.{l}.lora_fusion_gate.weight`` [k, d]
and ``encoder.layers.{l}.weight_bias`` [1, k]. It names neither its adapters nor its temperature.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from cluster.adapters.format.manifest import read_manifest as read_adapter_manifest
from cluster.base_model.source import ModelLocation
from cluster.errors import ConfigError, ModelSourceError
from router_service.artifacts.outputs import check_alias, claim_folder
from router_service.artifacts.router_artifact import RouterManifest, check_different
from router_service.artifacts.state_dict import read_state_dict
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.gate_temperature import LEAST_TEMPERATURE, MOST_TEMPERATURE

_WEIGHT = re.compile(r"encoder\.layers\.(\d+)\.lora_fusion_gate\.weight")
_BIAS = re.compile(r"encoder\.layers\.(\d+)\.weight_bias")
_WARM_GATES = frozenset({"zh_math", "ru_math"})
_WARM_TEMPERATURE = 1.1


def import_gate(
    source: Path,
    out: Path,
    *,
    adapters: Mapping[str, Path],
    base: ModelLocation,
    temperature: float | None = None,
    overwrite: bool = False,
) -> RouterManifest:
    """Convert a published gate file.

    The file is read with an unpickler that makes tensors and nothing else.

    Args:
        source: the file, e.g. ``zh_math.pt``.
        out: folder for the artifact.
        adapters: alias -> PEFT folder, in the gate's order (language, then task).
        base: the model the gate was trained on.
        temperature: T; None follows the authors' rule, 1.1 for the files zh_math and ru_math.
        overwrite: replace an artifact that is already in ``out``.

    Raises:
        ConfigError: ``out`` cannot be written, has a result already or is one of the adapters; the
            temperature is out of bounds; two of the adapters are one; the file is unreadable,
            has no biases, or does not fit the adapters or the base's layers and width.
        AdapterError: an adapter's folder cannot be read.
        ModelSourceError: the base's config.json cannot be read.
    """
    check_import(out, adapters=adapters, temperature=temperature, overwrite=overwrite)
    digests = {alias: read_adapter_manifest(path)[0].digest for alias, path in adapters.items()}
    check_different("adapters", digests)
    layers, hidden_size = base_dimensions(base.path)
    weight, bias = _stack(source, read_state_dict(source), layers)
    expected = (layers, len(adapters), hidden_size)
    if tuple(weight.shape) != expected:
        raise ConfigError(
            f"{source}: gates of shape [layers, adapters, width] = {list(weight.shape)}, but the "
            f"base and the adapters named make {list(expected)}"
        )
    if temperature is None:
        temperature = _WARM_TEMPERATURE if source.stem in _WARM_GATES else 1.0
    return save_gate(
        out,
        adapters=digests,
        hyperparameters=FlowHyperparameters(
            temperature=temperature,
            layers=layers,
            hidden_size=hidden_size,
            training={"imported_from": source.name},
        ),
        base_digest=base.digest,
        data_digest=hashlib.sha256(source.read_bytes()).hexdigest(),
        weight=weight,
        bias=bias,
    )


def check_import(
    out: Path,
    *,
    adapters: Mapping[str, Path],
    temperature: float | None = None,
    overwrite: bool = False,
) -> None:
    """Check the arguments of ``import_gate`` that do not need the base.

    Raises:
        ConfigError: ``out`` cannot be written, has a result already or is one of the adapters; no
            adapter can have one of the names; or the temperature is out of bounds.
    """
    if temperature is not None and not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE:
        raise ConfigError(
            f"temperature: expected a number from {LEAST_TEMPERATURE:g} to "
            f"{MOST_TEMPERATURE:g}, found {temperature:g}"
        )
    for alias in adapters:
        check_alias(alias, "adapter")
    claim_folder(out, overwrite=overwrite, reads=adapters.values())


def base_dimensions(folder: Path) -> tuple[int, int]:
    """Read the decoder layers and hidden size of a base model.

    Raises:
        ModelSourceError: config.json does not say.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
        return int(config["num_hidden_layers"]), int(config["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelSourceError(
            f"{path}: does not tell layers and hidden size: {error!r}"
        ) from error


def _stack(
    source: Path, tensors: Mapping[str, torch.Tensor], layers: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack W_g [L, k, d] and b [L, k]."""
    weights: dict[int, torch.Tensor] = {}
    biases: dict[int, torch.Tensor] = {}
    for key, tensor in tensors.items():
        if match := _WEIGHT.fullmatch(key):
            weights[int(match[1])] = tensor
        elif match := _BIAS.fullmatch(key):
            biases[int(match[1])] = tensor
        else:
            raise ConfigError(f"{source}: {key}: not a part of a gate")
    if weights.keys() != set(range(layers)):
        raise ConfigError(
            f"{source}: gates of {len(weights)} layers, 0 to {max(weights, default=-1)}, but the "
            f"base has {layers}"
        )
    if not biases:
        raise ConfigError(
            f"{source}: has no weight_bias: a gate of the authors' earlier formula, which the "
            "published one cannot take over; train it again"
        )
    if biases.keys() != weights.keys():
        lacking = ", ".join(str(layer) for layer in sorted(weights.keys() ^ biases.keys()))
        raise ConfigError(f"{source}: weight or weight_bias is missing for layers {lacking}")
    first = weights[0]
    for layer in range(layers):
        weight, bias = weights[layer], biases[layer]
        if weight.ndim != 2 or weight.shape != first.shape:
            raise ConfigError(
                f"{source}: layer {layer}: gate of shape {list(weight.shape)}, the first layer's "
                f"is {list(first.shape)}"
            )
        if bias.numel() != weight.shape[0]:
            raise ConfigError(
                f"{source}: layer {layer}: weight_bias of shape {list(bias.shape)} for "
                f"{weight.shape[0]} adapters"
            )
    ordered = range(layers)
    return (
        torch.stack([weights[layer].float() for layer in ordered]),
        torch.stack([biases[layer].float().reshape(-1) for layer in ordered]),
    )
