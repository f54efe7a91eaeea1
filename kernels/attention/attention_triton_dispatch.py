"""The import of the Triton attention kernels, which no CPU path reaches."""

import functools
from collections.abc import Callable

import torch

from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.cache import LayerKVCache

PagedAttention = Callable[
    [torch.Tensor, LayerKVCache, TritonPagedBatch, float, int | None], torch.Tensor
]
"""``kernels.attention.attention_triton_ops.paged_attention``."""

StoreFusedKV = Callable[[torch.Tensor, LayerKVCache, TritonPagedBatch], None]
"""``kernels.attention.attention_triton_ops.store_fused_kv``."""


@functools.cache
def attention_operators() -> tuple[StoreFusedKV, PagedAttention]:
    """Return both operators. Raises ImportError if Triton is not installed."""
    from kernels.attention.attention_triton_ops import paged_attention, store_fused_kv

    return store_fused_kv, paged_attention
