"""Frozen adapters added to a model's linears with weights that are computed while it runs.

``y = W x + sum_i w_i * scale_i * B_i A_i x``; w [..., k] is set at the entry of every decoder
layer. The adapters of a linear are concatenated along their ranks, so k of them cost two products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cluster.adapters.loader import HostAdapter, LoraTensors
from cluster.base_model.checks import decoder_layers

LayerWeigher = Callable[[int, torch.Tensor], torch.Tensor]
"""Layer index and the rows that enter it [..., d] -> weights of the adapters [..., k]."""


class _LayerWeights:
    """The weights of the layer that is running."""

    __slots__ = ("_expanded", "_weights")

    def __init__(self) -> None:
        self._weights: torch.Tensor | None = None
        self._expanded: dict[tuple[int, ...], torch.Tensor] = {}

    def set(self, weights: torch.Tensor) -> None:
        self._weights = weights
        self._expanded = {}

    def by_rank(self, ranks: tuple[int, ...]) -> torch.Tensor:
        """Repeat each adapter's weight once per rank: [..., sum of ranks]."""
        expanded = self._expanded.get(ranks)
        if expanded is None:
            assert self._weights is not None
            columns = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
            expanded = self._weights.index_select(-1, columns)
            self._expanded[ranks] = expanded
        return expanded


class _WeightedLinear(nn.Module):
    """A frozen linear with frozen adapters; 0 is the rank of one that does not touch it."""

    def __init__(
        self, linear: nn.Module, adapters: Sequence[LoraTensors | None], weights: _LayerWeights
    ) -> None:
        super().__init__()
        self.linear = linear
        present = [a for a in adapters if a is not None]
        self._ranks = tuple(0 if a is None else a.A.shape[0] for a in adapters)
        self._a = torch.cat([a.A.float() for a in present])  # [R, d_in]
        self._b = torch.cat([a.B.float() * a.scaling for a in present], dim=1)  # [d_out, R]
        self._weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shrunk = nn.functional.linear(x, self._a) * self._weights.by_rank(self._ranks)
        y: torch.Tensor = self.linear(x) + nn.functional.linear(shrunk, self._b)
        return y


def weigh_adapters(model: Any, adapters: Sequence[HostAdapter], weigh: LayerWeigher) -> None:
    """Put ``adapters`` into a transformers causal LM, weighed by ``weigh`` in every layer.

    The model's own parameters are frozen; gradients reach what ``weigh`` computes with.
    """
    model.requires_grad_(False)
    current = _LayerWeights()

    def enter(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            current.set(weigh(index, hidden))

        return hook

    for index, layer in enumerate(decoder_layers(model)):
        layer.register_forward_pre_hook(enter(index), with_kwargs=True)
    for path, module in list(model.named_modules()):
        tensors = [adapter.tensors.get(path) for adapter in adapters]
        if any(t is not None for t in tensors):
            parent, _, name = path.rpartition(".")
            replacement = _WeightedLinear(module, tensors, current)
            setattr(model.get_submodule(parent), name, replacement)
