"""Paged attention: in torch, for CPU and GPU, or handed to the Triton kernels."""

from functools import lru_cache

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention.attention_batch import DecodePlan, PagedBatch, PrefillPlan, heads_first
from kernels.attention.attention_native import attend_native
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.attention_triton_dispatch import attention_operators
from kernels.attention.cache import LayerKVCache

AnyPagedBatch = PagedBatch | TritonPagedBatch
"""A step's view of the cache; its class says which kernels compute."""


def store_kv(k: torch.Tensor, v: torch.Tensor, cache: LayerKVCache, batch: AnyPagedBatch) -> None:
    """Put the step's keys and values into the cache.

    Args:
        k, v: [T, H_kv, D].
        cache: the layer's.
        batch: of this step.
    """
    store_fused_kv(torch.cat((k, v), dim=1), cache, batch)


def store_fused_kv(kv: torch.Tensor, cache: LayerKVCache, batch: AnyPagedBatch) -> None:
    """Put the step's keys and values into the cache.

    A block that is begun and not filled is cleared first: what an earlier owner left behind, finite
    or not, then never meets a padded softmax.

    Args:
        kv: [T, 2 * H_kv, D], key heads before value heads.
        cache: the layer's.
        batch: of this step.
    """
    if isinstance(batch, TritonPagedBatch):
        attention_operators()[0](kv, cache, batch)
        return
    if batch.opened_blocks is not None:
        cache.kv.index_fill_(0, batch.opened_blocks, 0.0)
    cache.kv.flatten(0, 1).index_copy_(0, batch.kv_indices, kv)


def paged_attention(
    q: torch.Tensor,
    cache: LayerKVCache,
    batch: AnyPagedBatch,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Compute causal attention of the step's tokens over their sequences, after ``store_kv``.

    Decode rows read the cache in place where the native kernel is available. Elsewhere they are
    gathered and run together, the heads that share a key/value head as that head's queries, rows of
    very different length in a few buckets. Prefill rows run one by one. A row reads its own blocks
    only, padding included.

    Args:
        q: [T, H, D]; head h reads key/value head ``h // (H / H_kv)``.
        cache: the layer's.
        batch: of this step.
        scale: of the scores, usually ``D ** -0.5``.
        window: positions a token sees, itself included; None: all.

    Returns:
        [T, H, D].
    """
    if isinstance(batch, TritonPagedBatch):
        return attention_operators()[1](q, cache, batch, scale, window)
    plan = batch.plan(window)
    if len(plan.decode) == 1 and plan.decode[0].tokens is None:
        return _decode(q, cache, plan.decode[0], scale)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.native is not None:
        if q.stride(1) != q.shape[2] or q.stride(2) != 1:
            q = q.contiguous()
        attend_native(out, q, cache, plan.native, _scale(scale))
    for decode in plan.decode:
        if decode.tokens is not None:
            rows = q.index_select(0, decode.tokens)
            out.index_copy_(0, decode.tokens, _decode(rows, cache, decode, scale))
    for prefill in plan.prefill:
        out[prefill.start : prefill.stop] = _prefill(q, cache, prefill, scale)
    return out


@lru_cache
def _scale(value: float) -> torch.Tensor:
    return torch.tensor([value])


def _decode(q: torch.Tensor, cache: LayerKVCache, plan: DecodePlan, scale: float) -> torch.Tensor:
    rows, heads, dim = q.shape
    kv_heads = cache.kv_heads
    grouped = q.view(rows, kv_heads, heads // kv_heads, dim)
    out = torch.empty(grouped.shape, dtype=q.dtype, device=q.device)
    for part in plan.parts(cache.kv):
        torch.index_select(cache.kv, 0, part.blocks, out=part.gathered)
        out[part.start : part.stop] = scaled_dot_product_attention(
            grouped[part.start : part.stop], part.k, part.v, attn_mask=part.mask, scale=scale
        )
    return out.view(rows, heads, dim)


def _prefill(q: torch.Tensor, cache: LayerKVCache, plan: PrefillPlan, scale: float) -> torch.Tensor:
    k, v = heads_first(cache.kv.index_select(0, plan.blocks), 1)
    attended = scaled_dot_product_attention(
        q[plan.start : plan.stop].transpose(0, 1).unsqueeze(0),
        k.narrow(2, plan.first, plan.keys),
        v.narrow(2, plan.first, plan.keys),
        attn_mask=plan.mask,
        is_causal=plan.mask is None,
        scale=scale,
        enable_gqa=True,
    )
    return attended.squeeze(0).transpose(0, 1)
