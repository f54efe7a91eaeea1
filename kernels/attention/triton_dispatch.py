"""The import of the Triton attention kernels, which no CPU path reaches."""

import functools
from collections.abc import Callable

import torch

from kernels.attention.cache import LayerKVCache
from kernels.attention.triton_batch import TritonPagedBatch

PagedAttention = Callable[
    [torch.Tensor, LayerKVCache, TritonPagedBatch, float, int | None], torch.Tensor
]
"""``kernels.attention.triton_ops.paged_attention``."""

StoreFusedKV = Callable[[torch.Tensor, LayerKVCache, TritonPagedBatch], None]
"""``kernels.attention.triton_ops.store_fused_kv``."""


@functools.cache
def attention_operators() -> tuple[StoreFusedKV, PagedAttention]:
    """Both operators. Raises ImportError where Triton is not installed."""
    from kernels.attention.triton_ops import paged_attention, store_fused_kv

    return store_fused_kv, paged_attention
