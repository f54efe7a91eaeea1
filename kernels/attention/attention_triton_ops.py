"""Paged attention on a GPU.

Imported only if a device for it is present (``kernels.attention.attention_triton_dispatch``).
"""

import math

import torch

from kernels.attention.attention_triton_batch import (
    NO_WINDOW,
    SPLIT_KEYS,
    TILE_QUERIES,
    TritonPagedBatch,
)
from kernels.attention.attention_triton_kernels import decode, merge, prefill, store
from kernels.attention.cache import LayerKVCache

_TILE_NBYTES = 2**14
"""Bytes of one tile of keys. Keys and values of two stages then take 64 KiB of shared memory, which
leaves room for a second program per multiprocessor."""

_TWO_PROGRAMS = 128
"""Registers per thread with which two programs of 8 warps fit a multiprocessor. The compiler would
take a few more; in half precision it spills nothing for it."""

_STORE_BLOCK = 1024
"""Elements that a storing program copies at once: 8 per thread, one vector in half precision."""


def store_fused_kv(kv: torch.Tensor, cache: LayerKVCache, batch: TritonPagedBatch) -> None:
    """Put the step's keys and values into the cache; tokens of padding go nowhere.

    Args:
        kv: [T, 2 * H_kv, D], key heads before value heads; strided but for D.
        cache: the layer's.
        batch: updated for this step.

    Raises:
        ValueError: T does not fit the batch, or a head's numbers do not lie side by side.
    """
    tokens, heads, dim = kv.shape
    if tokens != batch.tokens or kv.stride(2) != 1:
        raise ValueError(f"keys and values {tuple(kv.shape)}, the step has {batch.tokens} tokens")
    store[(tokens,)](
        kv,
        cache.kv,
        batch.kv_indices,
        kv.stride(0),
        kv.stride(1),
        DIM=dim,
        SIZE=heads * dim,
        BLOCK=_STORE_BLOCK,
        num_warps=4,
        enable_fp_fusion=True,
    )


def paged_attention(
    q: torch.Tensor,
    cache: LayerKVCache,
    batch: TritonPagedBatch,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Compute causal attention of the step's tokens over their sequences, after ``store_fused_kv``.

    Long contexts of decode rows are divided among programs and merged by a second launch. A row's
    result depends on the row alone, to the last bit.

    Args:
        q: [T, H, D], strided but for D; head h reads key/value head ``h // (H / H_kv)``.
        cache: the layer's.
        batch: updated for this step.
        scale: of the scores, usually ``D ** -0.5``.
        window: positions a token sees, itself included; None: all.

    Returns:
        [T, H, D]; rows of padding are not written.

    Raises:
        ValueError: T does not fit the batch, or a head's numbers do not lie side by side.
    """
    tokens, heads, dim = q.shape
    if tokens != batch.tokens or q.stride(2) != 1:
        raise ValueError(f"queries {tuple(q.shape)}, the step has {batch.tokens} tokens")
    out = torch.empty((tokens, heads, dim), dtype=q.dtype, device=q.device)
    width = NO_WINDOW if window is None else window
    if batch.decode_rows:
        _decode(q, cache, batch, out, scale, width)
    if batch.tiles:
        _prefill(q, cache, batch, out, scale, width)
    return out


def _decode(
    q: torch.Tensor,
    cache: LayerKVCache,
    batch: TritonPagedBatch,
    out: torch.Tensor,
    scale: float,
    window: int,
) -> None:
    _, heads, dim = q.shape
    group = heads // cache.kv_heads
    splits = batch.splits(window)
    rows = batch.decode_rows
    sums = stats = out  # not written if each row is one piece
    if splits > 1:
        sums = torch.empty((rows, heads, splits, dim), dtype=torch.float32, device=q.device)
        stats = torch.empty((rows, heads, splits, 2), dtype=torch.float32, device=q.device)
    decode[(rows, cache.kv_heads, splits)](
        q,
        cache.kv,
        out,
        sums,
        stats,
        batch.rows,
        batch.block_tables,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        *cache.kv.stride()[:3],
        batch.max_blocks,
        scale * math.log2(math.e),
        window,
        GROUP=group,
        KV_HEADS=cache.kv_heads,
        DIM=dim,
        BLOCK_SIZE=cache.block_size,
        SPLITS=splits,
        SPLIT_KEYS=SPLIT_KEYS,
        BLOCK_H=max(16, _power_of_two(group)),  # 16: the least a tensor core product takes
        BLOCK_D=_block_dim(dim),
        BLOCK_N=_block_keys(q),
        num_warps=8 if q.dtype is torch.float32 else 4,  # without tensor cores, registers run out
        num_stages=2,
        enable_fp_fusion=True,
    )
    if splits > 1:
        merge[(rows, heads)](
            out,
            sums,
            stats,
            batch.rows,
            out.stride(0),
            window,
            HEADS=heads,
            DIM=dim,
            SPLITS=splits,
            SPLIT_KEYS=SPLIT_KEYS,
            BLOCK_D=_block_dim(dim),
            num_warps=4,
            enable_fp_fusion=True,
        )


def _prefill(
    q: torch.Tensor,
    cache: LayerKVCache,
    batch: TritonPagedBatch,
    out: torch.Tensor,
    scale: float,
    window: int,
) -> None:
    _, heads, dim = q.shape
    prefill[(batch.tiles, heads)](
        q,
        cache.kv,
        out,
        batch.rows,
        batch.block_tables,
        batch.tile_bounds,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        *cache.kv.stride()[:3],
        batch.max_blocks,
        scale * math.log2(math.e),
        window,
        GROUP=heads // cache.kv_heads,
        KV_HEADS=cache.kv_heads,
        DIM=dim,
        BLOCK_SIZE=cache.block_size,
        BLOCK_M=TILE_QUERIES,
        BLOCK_D=_block_dim(dim),
        BLOCK_N=_block_keys(q),
        num_warps=4 if dim <= 64 else 8,  # the running sum takes 32 registers a thread, or 64
        maxnreg=_TWO_PROGRAMS if dim > 64 and q.dtype is not torch.float32 else None,
        num_stages=2,
        enable_fp_fusion=True,
    )


def _block_dim(dim: int) -> int:
    return max(16, _power_of_two(dim))


def _block_keys(q: torch.Tensor) -> int:
    fitting = _TILE_NBYTES // (_block_dim(q.shape[2]) * q.element_size())
    return max(16, min(64, fitting))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
