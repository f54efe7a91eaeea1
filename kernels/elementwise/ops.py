"""RMSNorm, SwiGLU's gate and rotary embedding: native where they can be, else in torch."""

from __future__ import annotations

import torch

from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.cache import LayerKVCache
from kernels.attention.paged import AnyPagedBatch, store_fused_kv
from kernels.elementwise.operations import norm_call, rotate_and_store_call, silu_gate_call
from kernels.native.compiler import openmp
from kernels.native.parallel import call_native
from kernels.native.program import Operation

_PARALLEL_VALUES = 2**16
"""Values from which a second thread is worth waking."""


def native_rows(x: torch.Tensor) -> bool:
    """Return whether the native kernels take ``x``: fp32 on the CPU, contiguous rows."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.stride(-1) == 1
        and openmp() is not None
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last axis of fp32 rows that `native_rows`
    takes.

    Args:
        x: [..., width].
        weight: [width] fp32, contiguous.
        eps: [1] fp32.
    """
    width = x.shape[-1]
    rows = x if x.dim() == 2 else x.reshape(-1, width)
    out = torch.empty(x.shape)
    _run(norm_call(rows, weight, eps, out.view(-1, width), rows.shape[0]), x)
    return out


def silu_gate(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute silu(gate) * up, [T, width], of ``gate_up`` [T, 2 width]; its contents may be
    overwritten."""
    rows, both = gate_up.shape
    if not native_rows(gate_up) or not gate_up.is_contiguous():
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate, inplace=True).mul(up)
    out = torch.empty((rows, both // 2))
    _run(silu_gate_call(gate_up, out, rows), gate_up)
    return out


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: int,
    cache: LayerKVCache,
    batch: AnyPagedBatch,
) -> None:
    """Rotate the query and key heads by halves, in place, and put keys and values into the cache.

    Args:
        qkv: [T, heads + 2 H_kv, D], contiguous: query, key and value heads.
        cos: [T, D]; ``sin`` likewise.
        heads: query heads.
        cache: the layer's.
        batch: of this step.
    """
    kv_heads = cache.kv_heads
    if (
        isinstance(batch, TritonPagedBatch)
        or not native_rows(qkv)
        or cache.kv.dtype != torch.float32
    ):
        _rotate(qkv.narrow(1, 0, heads + kv_heads), cos.unsqueeze(1), sin.unsqueeze(1))
        store_fused_kv(qkv.narrow(1, heads, 2 * kv_heads), cache, batch)
        return
    if batch.opened_blocks is not None:
        cache.kv.index_fill_(0, batch.opened_blocks, 0.0)
    _run(rotate_and_store_call(qkv, cos, sin, heads, cache, batch.kv_indices, qkv.shape[0]), qkv)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate the halves (a, b) of each head to (a cos - b sin, b cos + a sin), in place."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1).mul_(sin)
    x.mul_(cos).add_(turned)


def _run(call: Operation, x: torch.Tensor) -> None:
    threads = torch.get_num_threads() if x.numel() >= _PARALLEL_VALUES else 1
    call_native(call.kernel, threads, *call.words)
