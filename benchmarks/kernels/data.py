"""Random banks and caches of a given shape."""

from collections.abc import Sequence

import torch

from benchmarks.kernels.shapes import KernelModelShape
from kernels.attention.cache import LayerKVCache
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_reference import LoraModule
from kernels.lora.sites import FusedSite


def make_adapter(sites: Sequence[FusedSite], rank: int, seed: int) -> dict[str, LoraModule]:
    """Make an adapter with tensors at every module: path -> (A, B, scaling)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        path: (
            torch.randn(rank, site.in_features, generator=generator) / site.in_features**0.5,
            torch.randn(width, rank, generator=generator) / rank,
            2.0,
        )
        for site in sites
        for path, width in site.out_slices
    }


def fill_bank(sites: Sequence[FusedSite], ranks: Sequence[int]) -> AdapterBank:
    """Make a bank with one adapter per given rank, in slots 0, 1, ..."""
    bank = AdapterBank(sites, len(ranks), max(ranks))
    for slot, rank in enumerate(ranks):
        bank.write(slot, make_adapter(sites, rank, seed=slot))
    return bank


def make_cache(
    model: KernelModelShape, rows: Sequence[tuple[int, int]], block_size: int
) -> tuple[LayerKVCache, list[list[int]]]:
    """Make one layer's cache full of random tokens, and block tables dealt from it in random
    order.

    Args:
        model: its key/value heads.
        rows: (tokens stored before, new tokens) per row.
        block_size: tokens per block.
    """
    generator = torch.Generator().manual_seed(0)
    needed = [-(-(context + count) // block_size) for context, count in rows]
    cache = LayerKVCache.allocate(sum(needed), block_size, model.kv_heads, model.head_dim)
    cache.k.normal_(generator=generator)
    cache.v.normal_(generator=generator)
    blocks = torch.randperm(sum(needed), generator=generator).tolist()
    return cache, [[blocks.pop() for _ in range(count)] for count in needed]
