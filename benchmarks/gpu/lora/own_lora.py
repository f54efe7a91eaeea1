"""The LoRA operator of this project over some layers' sites, for timing."""

from collections.abc import Callable, Sequence

import torch

from benchmarks.gpu.random_models import RandomSize
from benchmarks.gpu.workloads import RANK
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import Mixture
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import add_lora_operator
from kernels.lora.sites import FusedSite

AddAt = Callable[[torch.Tensor, torch.Tensor, int, str], object]
"""Adds the adapters' part to y for x, at a layer's site."""


class OwnLora:
    """A bank over some layers, every slot with the same values at an address of its own."""

    def __init__(
        self, size: RandomSize, layers: int, slots: int, device: str, dtype: torch.dtype
    ) -> None:
        self._sites = list(size.sites)
        sites = [
            FusedSite(
                f"{layer}.{name}",
                inside,
                tuple((f"{layer}.{name}.{i}", width) for i, width in enumerate(widths)),
            )
            for layer in range(layers)
            for name, (inside, widths) in size.sites.items()
        ]
        self._bank = AdapterBank(sites, slots, RANK, dtype, device)
        generator = torch.Generator().manual_seed(0)
        packed = self._bank.pack(
            {
                path: (
                    torch.randn(RANK, site.in_features, generator=generator) * 0.02,
                    torch.randn(width, RANK, generator=generator) * 0.02,
                    1.0,
                )
                for site in sites
                for path, width in site.out_slices
            }
        )
        for slot in range(slots):
            self._bank.place(slot, packed)
        self._run = add_lora_operator()

    def step(self, mixtures: Sequence[Mixture], tokens: int = 1) -> AddAt:
        """Return the operator for rows of so many tokens each."""
        batch = TritonLoraBatch(
            self._bank,
            max_tokens=len(mixtures) * tokens,
            max_rows=len(mixtures),
            max_pairs=max(map(len, mixtures)),
        )
        batch.update([(tokens, mixture) for mixture in mixtures])

        def add(y: torch.Tensor, x: torch.Tensor, layer: int, site: str) -> None:
            index = layer * len(self._sites) + self._sites.index(site)
            self._run(y, x, index, batch, None)

        return add

    def expected(self, x: torch.Tensor, site: str) -> torch.Tensor:
        """Return in fp32 what one adapter of weight 1 adds at a site of the first layer."""
        entry = self._bank.entry(0)
        view = entry.lane.single(entry.position).site(self._sites.index(site))
        assert view is not None
        shrunk = x.float() @ view.a_t.float()
        return torch.cat(
            [
                shrunk[:, part.rank_start : part.rank_start + part.rank] @ part.b.float()
                for part in view.expands
            ],
            dim=1,
        )
