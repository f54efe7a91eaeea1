"""Quantised weights: what ``engine.quantize`` makes of the products of the base model.

Adapters are not quantised; their part is added to the base product in the activations' dtype.
The embedding stays as it is too, a tied head gets an int8 copy of its own.
"""

from __future__ import annotations

import torch

from cluster.engine.model.products import Product
from cluster.errors import ConfigError, ModelSourceError
from kernels.int8.amx import AmxLinear, amx_available
from kernels.int8.onednn import OneDnnLinear, onednn_available


def check_quantize(quantize: str, device: torch.device) -> None:
    """Raises ConfigError where the weights cannot be quantised as asked."""
    if quantize == "none":
        return
    if device.type != "cpu":
        raise ConfigError(
            f"engine.quantize is {quantize!r}, which is computed on CPUs only, but the device is "
            f"{device.type!r}; set engine.device to 'cpu', or engine.quantize to 'none'"
        )
    if not (amx_available() or onednn_available()):
        raise ConfigError(
            f"engine.quantize is {quantize!r}, but torch has no oneDNN here, which computes it; "
            "set engine.quantize to 'none'"
        )


def make_int8_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Return the int8 product of a CPU weight [out, in]; ``bias`` is [out]. Neither is kept.

    Raises:
        ModelSourceError: a weight is NaN or infinite.
    """
    linear = AmxLinear if amx_available() else OneDnnLinear
    try:
        return linear(weight, bias)
    except ValueError as error:
        raise ModelSourceError(
            f"a matrix of {tuple(weight.shape)} cannot be int8: {error}"
        ) from None
