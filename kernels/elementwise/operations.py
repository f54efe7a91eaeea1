"""The small operations of a decoder layer as calls of a native program; all tensors are fp32."""

from __future__ import annotations

import torch

from kernels.attention.cache import LayerKVCache
from kernels.elementwise import elementwise_native_kernel as native_kernel
from kernels.native.program import Operation


def norm_call(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: torch.Tensor,
    out: torch.Tensor,
    rows: int,
    addend: torch.Tensor | None = None,
) -> Operation:
    """Compute ``x += addend``, then ``out = rms_norm(x)``, for the first ``rows`` rows.

    Args:
        x: [.., width], rows contiguous; ``out`` and ``addend`` likewise.
        weight: [width].
        eps: [1].
        rows: at least 1.
        addend: None: nothing is added.
    """
    return Operation(
        native_kernel.rms_norm.address,
        (
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            rows,
            x.shape[1],
            x.stride(0),
            eps.data_ptr(),
            0 if addend is None else addend.data_ptr(),
        ),
    )


def norm_heads_call(
    x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor, rows: int, first: int, heads: int
) -> Operation:
    """Normalise heads [first, first + heads) of each row of ``x`` [.., any, D] in place."""
    dim = weight.shape[0]
    place = x.data_ptr() + first * dim * x.element_size()
    return Operation(
        native_kernel.norm_heads.address,
        (place, weight.data_ptr(), rows, x.stride(0), heads, dim, eps.data_ptr()),
    )


def silu_gate_call(gate_up: torch.Tensor, out: torch.Tensor, rows: int) -> Operation:
    """Compute ``out`` [.., width] = silu(gate) * up of the first ``rows`` rows of [.., 2 width]."""
    return Operation(
        native_kernel.silu_gate.address,
        (gate_up.data_ptr(), out.data_ptr(), rows, out.shape[1]),
    )


def rotate_and_store_call(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: int,
    cache: LayerKVCache,
    kv_indices: torch.Tensor,
    rows: int,
) -> Operation:
    """Compute `kernels.elementwise.ops.rotate_and_store` of the first ``rows`` tokens.

    Args:
        qkv: [.., heads + 2 H_kv, D] or flattened, contiguous.
        cos: [.., D]; ``sin`` likewise.
        heads: query heads.
        cache: the layer's.
        kv_indices: [..] int64, where the tokens' keys and values go.
        rows: at least 1.
    """
    return Operation(
        native_kernel.rotate_store.address,
        (
            qkv.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            rows,
            heads,
            cache.kv_heads,
            cache.kv.shape[3],
            cache.kv.data_ptr(),
            kv_indices.data_ptr(),
        ),
    )
