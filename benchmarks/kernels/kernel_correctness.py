"""Correctness check: nothing is timed before it agrees with its reference."""

import torch

from benchmarks.kernels.data import fill_bank, make_adapter, make_cache
from benchmarks.kernels.shapes import TINY, AttentionCase, LoraCase
from kernels.attention.attention_batch import PagedBatch
from kernels.attention.attention_reference import paged_attention_reference
from kernels.attention.paged import paged_attention, store_kv
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.torch_ops import add_lora
from kernels.tolerances import assert_close


def check_lora(case: LoraCase) -> None:
    """Compare a case's rows and ranks, on a tiny model, with the reference.

    Raises:
        AssertionError: they disagree.
    """
    sites = TINY.sites()
    bank = fill_bank(sites, case.ranks)
    adapters = {slot: make_adapter(sites, rank, seed=slot) for slot, rank in enumerate(case.ranks)}
    batch = LoraBatch.build(case.rows, bank)
    mixtures = [mixture for count, mixture in case.rows for _ in range(count)]
    generator = torch.Generator().manual_seed(1)
    for index, site in enumerate(sites):
        x = torch.randn(case.tokens, site.in_features, generator=generator)
        y = torch.randn(case.tokens, site.out_features, generator=generator)
        want = add_lora_reference(y, x, adapters, site.out_slices, mixtures)
        if batch is not None:
            add_lora(y, x, bank, index, batch)
        assert_close("lora", y, want)


def check_attention(case: AttentionCase) -> None:
    """Compare a case, its lengths divided by 8, with the reference on a tiny model.

    Raises:
        AssertionError: they disagree.
    """
    rows = tuple((context // 8, -(-count // 8)) for context, count in case.rows)
    cache, tables = make_cache(TINY, rows, block_size=4)
    contexts, counts = [c for c, _ in rows], [n for _, n in rows]
    batch = PagedBatch.build(tables, contexts, counts, block_size=4)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(batch.tokens, TINY.heads, TINY.head_dim, generator=generator)
    k = torch.randn(batch.tokens, TINY.kv_heads, TINY.head_dim, generator=generator)
    store_kv(k, k.neg(), cache, batch)
    scale = TINY.head_dim**-0.5
    want = paged_attention_reference(q, cache.k, cache.v, tables, contexts, counts, scale)
    assert_close("attention", paged_attention(q, cache, batch, scale), want)
