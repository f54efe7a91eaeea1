"""Checks that a base model can be served; anything else is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from cluster.errors import ModelSourceError

_FIXED_ROPE = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings that depend on a token's own position only, not on the longest in the batch."""

_LAYER_TYPES = {"full_attention", "sliding_attention"}


def check_config(config: Any) -> None:
    """Raises ModelSourceError if the configuration asks for what the engine does not compute."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelSourceError(f"{name}: encoder-decoder models are not supported")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelSourceError(f"{name}: pre-quantised weights are not supported")
    if getattr(config, "use_bidirectional_attention", None):
        raise ModelSourceError(f"{name}: bidirectional attention is not supported")
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise ModelSourceError(f"{name}: layers of type {sorted(unknown)} are not supported")
    for rope_type in _rope_types(config):
        if rope_type not in _FIXED_ROPE:
            raise ModelSourceError(f"{name}: rotary embedding {rope_type!r} is not supported")


def check_layers(model: nn.Module, layers: nn.ModuleList) -> None:
    """Raises ModelSourceError if a decoder layer has matrices outside of ``nn.Linear``.

    Mixtures of experts, state-space and convolution layers keep theirs elsewhere.
    """
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelSourceError(f"{name}: its attention cannot be replaced by the paged one")
    for index, layer in enumerate(layers):
        for path, module in layer.named_modules():
            for parameter_name, parameter in module.named_parameters(recurse=False):
                plain = type(module) is nn.Linear or parameter.ndim < 2
                if not plain:
                    raise ModelSourceError(
                        f"{name}: layer {index} has {path}.{parameter_name} of shape "
                        f"{tuple(parameter.shape)}, which is not the weight of an nn.Linear "
                        "(mixture-of-experts and recurrent layers are not supported)"
                    )
        if not any(type(module) is nn.Linear for module in layer.modules()):
            raise ModelSourceError(f"{name}: layer {index} has no nn.Linear")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder layers of a causal LM.

    Raises:
        ModelSourceError: they are not at ``model.layers``.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        raise ModelSourceError(
            f"{type(model).__name__}: its decoder layers are not at model.layers"
        )
    return layers


def attention_modules(layers: nn.ModuleList) -> Iterator[nn.Module]:
    """Return the module of each decoder layer that calls the attention interface, in layer order.

    Raises:
        ModelSourceError: a layer does not have exactly one, or they are not numbered in order.
    """
    for index, layer in enumerate(layers):
        found = [
            module for module in layer.modules() if getattr(module, "layer_idx", None) == index
        ]
        found = [module for module in found if module is not layer]
        if len(found) != 1:
            raise ModelSourceError(
                f"decoder layer {index} has {len(found)} attention modules numbered {index}; "
                "exactly one is supported"
            )
        yield found[0]


def limit_model_len(config: Any, wanted: int) -> int:
    """Return ``wanted``, cut to what the positions of the model allow."""
    limit = getattr(config, "max_position_embeddings", None)
    return wanted if limit is None else min(wanted, int(limit))


def layer_window(config: Any, layer: int) -> int | None:
    """Return the positions a token of this layer sees, itself included; None: all."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types and layer_types[layer] != "sliding_attention":
        return None
    window = getattr(config, "sliding_window", None)
    return None if window is None else int(window)


def _rope_types(config: Any) -> Iterator[str]:
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for one in nested or [parameters]:
        yield one.get("rope_type", "default")
