"""The baseline: a mixture of LoRA experts whose router is asked for every token.

Each expert is a LoRA on all seven modules with a share of the rank, so that all experts together
are as large as the plain adapter. A router multiplies the token's row, and the likeliest experts
are weighed by their renormalised probabilities; the others are skipped by the same operator that
skips MiLoRA's inactive modules.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch

from cluster.engine.mixing import LAYER_MODULES


class TokenRouter:
    """Softmax and top k over experts, per token; a `cluster.engine.mixing.MixingGate`.

    Whether a layer has one router, reading the rows that enter it, or one for each of its modules,
    reading the module's input, is its ``resolution``.
    """

    def __init__(self, weights: Sequence[Mapping[str, torch.Tensor]], top_k: int) -> None:
        """``weights``: of each layer, [width, experts] by module, or under "" one for all."""
        self._weights = tuple(dict(layer) for layer in weights)
        self._top_k = top_k
        first = next(iter(self._weights[0].values()))
        self.hidden_size, self.num_adapters = first.shape
        self.num_layers = len(self._weights)
        self.resolution: Literal["layer", "site"] = "layer" if "" in self._weights[0] else "site"
        self.calls = 0

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        """Compute [T, experts], as `cluster.engine.mixing.MixingGate`."""
        self.calls += 1
        name = "" if site is None else LAYER_MODULES[site]
        probabilities = (x.float() @ self._weights[layer][name]).softmax(dim=-1)
        values, experts = probabilities.topk(self._top_k, dim=-1)
        values = values / values.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter_(-1, experts, values)

    def to(self, device: torch.device) -> Self:
        """Copy it with its tensors on ``device``."""
        self._weights = tuple(
            {name: weight.to(device) for name, weight in layer.items()} for layer in self._weights
        )
        return self


def random_token_router(
    layers: int,
    widths: Mapping[str, int],
    experts: int,
    top_k: int,
    generator: torch.Generator,
) -> TokenRouter:
    """Make a router with ``widths`` of its inputs by module, or under "" of the residual stream."""
    return TokenRouter(
        [
            {
                name: torch.randn(width, experts, generator=generator) / width**0.5
                for name, width in widths.items()
            }
            for _ in range(layers)
        ],
        top_k,
    )
