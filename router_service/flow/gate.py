"""LoRA-Flow's gate (arXiv 2402.11455): one small linear map per decoder layer.

``w[t] = softmax(W_g x[t] / T) + b``, with x the residual stream before the layer's input norm. The
bias is outside the softmax, so w is not a distribution: entries may be negative or above 1, and
they need not sum to 1. One w serves all linears of the layer, and every adapter takes part.
"""

from __future__ import annotations

from typing import Literal

import torch


class FlowGate:
    """The gates of all layers, in fp32; a `cluster.engine.mixing.MixingGate`."""

    resolution: Literal["layer"] = "layer"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, temperature: float = 1.0) -> None:
        """Take over tensors; they may require gradients.

        Args:
            weight: W_g of every layer, [L, k, d].
            bias: b of every layer, [L, k].
            temperature: T, above 0.

        Raises:
            ValueError: shapes that do not fit, or fewer than two adapters.
        """
        if weight.ndim != 3 or bias.shape != weight.shape[:2]:
            raise ValueError(
                f"gate weight {list(weight.shape)} and bias {list(bias.shape)} do not fit "
                "[L, k, d] and [L, k]"
            )
        self.num_layers, self.num_adapters, self.hidden_size = weight.shape
        if self.num_adapters < 2:
            raise ValueError("a gate weighs two adapters or more")
        self._weight = weight
        self._bias = bias
        self._temperature = temperature

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        """Compute w [..., k] in fp32 of the rows ``x`` [..., d] that enter ``layer``."""
        del site
        logits = torch.nn.functional.linear(x.float(), self._weight[layer])
        return (logits / self._temperature).softmax(dim=-1) + self._bias[layer]

    def to(self, device: torch.device) -> FlowGate:
        """Copy the gate with its tensors on ``device``."""
        return FlowGate(self._weight.to(device), self._bias.to(device), self._temperature)


def initial_bias(num_adapters: int, target: int) -> torch.Tensor:
    """Make b [k] so that a gate of W_g = 0 is the target adapter alone: w = (0, ..., 1, ..., 0)."""
    bias = torch.full((num_adapters,), -1.0 / num_adapters)
    bias[target] += 1.0
    return bias
