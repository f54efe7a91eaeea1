"""The same sums by torch alone: gathered copies of adapters, and grouped products."""

from collections.abc import Sequence

import torch
from torch.nn.functional import grouped_mm

from benchmarks.gpu.lora.own_lora import AddAt
from benchmarks.gpu.random_models import RandomSize
from benchmarks.gpu.workloads import RANK
from kernels.lora.lora_batch import Mixture


class TorchLora:
    """Adapters stacked by site and slice, [slots, in, rank] and [slots, rank, width]."""

    def __init__(
        self, size: RandomSize, layers: int, slots: int, device: str, dtype: torch.dtype
    ) -> None:
        def weights(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device).mul_(0.02).to(dtype)

        self._device, self._slots = device, slots
        self._stacks = [
            {
                name: [(weights(slots, inside, RANK), weights(slots, RANK, w)) for w in widths]
                for name, (inside, widths) in size.sites.items()
            }
            for _ in range(layers)
        ]

    def gathered(self, mixtures: Sequence[Mixture], tokens: int = 1) -> AddAt:
        """Return the sums by copies of A and B for each pair, and two batched products."""
        token, slot, weight = self._pairs(mixtures, tokens)

        def add(y: torch.Tensor, x: torch.Tensor, layer: int, site: str) -> None:
            first = 0
            for a, b in self._stacks[layer][site]:
                shrunk = torch.bmm(x[token].unsqueeze(1), a[slot])
                shrunk = shrunk * weight[:, None, None].to(shrunk.dtype)
                part = torch.bmm(shrunk, b[slot]).squeeze(1)
                y[:, first : first + b.shape[2]].index_add_(0, token, part)
                first += b.shape[2]

        return add

    def grouped(self, mixtures: Sequence[Mixture], tokens: int = 1) -> AddAt:
        """Return the sums by pairs sorted by adapter, and one grouped product for each half."""
        token, slot, weight = self._pairs(mixtures, tokens)
        order = torch.argsort(slot, stable=True)
        token, weight = token[order], weight[order]
        ends = torch.bincount(slot, minlength=self._slots).cumsum(0).to(torch.int32)

        def add(y: torch.Tensor, x: torch.Tensor, layer: int, site: str) -> None:
            rows = x[token]
            first = 0
            for a, b in self._stacks[layer][site]:
                shrunk = grouped_mm(rows, a, offs=ends)
                shrunk = shrunk * weight[:, None].to(shrunk.dtype)
                part = grouped_mm(shrunk, b, offs=ends)
                y[:, first : first + b.shape[2]].index_add_(0, token, part)
                first += b.shape[2]

        return add

    def _pairs(
        self, mixtures: Sequence[Mixture], tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pairs = [
            (row * tokens + token, slot, weight)
            for row, mixture in enumerate(mixtures)
            for token in range(tokens)
            for slot, weight in mixture
        ]
        columns = (torch.tensor(column, device=self._device) for column in zip(*pairs, strict=True))
        token, slot, weight = columns
        return token, slot, weight
