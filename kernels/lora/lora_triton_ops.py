"""The fused multi-LoRA operator on a GPU: two launches per site.

Imported only if a device for it is present (``kernels.lora.lora_triton_dispatch``).
"""

import torch

from kernels.lora.lora_triton_batch import (
    TILE_COLUMNS,
    TILE_TOKENS,
    Form,
    TritonLoraBatch,
    split_count,
)
from kernels.lora.lora_triton_kernels import decode_expand, decode_shrink
from kernels.lora.lora_triton_tiles import runs_expand, runs_shrink

_SHRINK_FEATURES = 256
"""Features that a shrinking program in decode takes at once: 16 ranks x 256 features are 8 KiB in
half precision, in flight per program, and 32 fp32 accumulators per thread of 4 warps."""

_TILE_FEATURES = 64
"""Features of one step of a tiled shrink: with two stages, 24 KiB of shared memory in half
precision and 48 KiB in fp32, which every supported GPU has for two programs per multiprocessor."""

_TWO_PROGRAMS = 128
"""Registers per thread with which two programs of 8 warps fit a multiprocessor. The compiler would
take a few more; in half precision it spills at most some bytes for it."""

_RANKS = 16
"""Ranks taken at once where rank is the summed dimension: the least a tensor core product takes."""

_TILE_RANKS = 32
"""Ranks of one pass of a tiled shrink over x: common ranks need a single pass."""


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    site_index: int,
    batch: TritonLoraBatch,
    weights: torch.Tensor | None = None,
) -> None:
    """Add the batch's adapters to one fused site's output, in place.

    Sums are in fp32 and in one order. Rows without adapters, or with weights of 0 only, keep their
    bits; a batch without work launches nothing.

    Args:
        y: [T, out_features of the site], of the bank's dtype; rows may lie apart, columns not.
        x: [T, in_features of the site], likewise.
        site_index: index into the bank's sites.
        batch: updated for this step.
        weights: in place of the batch's: [pairs], or [pairs, slices of the site] where single
            modules are weighted or, with 0, left out; any float dtype and strides. Read when the
            kernels run.

    Raises:
        ValueError: T, widths, dtype or strides do not fit.
    """
    bank = batch.bank
    site = bank.sites[site_index]
    tokens = batch.tokens
    if x.shape != (tokens, site.in_features) or y.shape != (tokens, site.out_features):
        raise ValueError(
            f"{site.name}: x {tuple(x.shape)} and y {tuple(y.shape)} do not fit "
            f"[{tokens}, {site.in_features}] and [{tokens}, {site.out_features}]"
        )
    if x.dtype != bank.dtype or y.dtype != bank.dtype:
        raise ValueError(f"{site.name}: x {x.dtype} and y {y.dtype}, the bank has {bank.dtype}")
    if x.stride(1) != 1 or y.stride(1) != 1:
        raise ValueError(f"{site.name}: columns of x and y must lie side by side")
    if batch.longest == 0 or tokens == 0:
        return
    slices = len(site.out_slices)
    if weights is None:
        weights = batch.pair_weights
    elif weights.shape not in (batch.weights.shape, (*batch.weights.shape, slices)):
        raise ValueError(
            f"{site.name}: weights {tuple(weights.shape)} do not fit "
            f"{batch.weights.shape[0]} pairs and {slices} slices"
        )
    if weights.dim() == 1:
        weights = weights.unsqueeze(1).expand(-1, slices)
    if batch.form is Form.DECODE:
        _decode(y, x, site_index, batch, weights)
    else:
        _runs(y, x, site_index, batch, weights)


def _decode(
    y: torch.Tensor, x: torch.Tensor, site_index: int, batch: TritonLoraBatch, weights: torch.Tensor
) -> None:
    site, table = batch.bank.sites[site_index], batch.table
    columns = batch.column_tiles[site_index]
    splits = split_count(site.in_features)
    shared = (
        table.addresses,
        table.extents,
        batch.counts,
        batch.slots,
        batch.pair_starts,
        weights,
    )
    strides = (*weights.stride(), batch.max_pairs)
    place = (site_index, len(batch.bank.sites), table.slices)
    decode_shrink[(x.shape[0] * batch.longest, splits, len(site.out_slices))](
        x,
        batch.scratch,
        *shared,
        *strides,
        x.stride(0),
        *place,
        site.in_features,
        _chunk(site.in_features, _SHRINK_FEATURES),
        batch.longest,
        splits,
        batch.scratch_width,
        BLOCK_R=_RANKS,
        BLOCK_N=_SHRINK_FEATURES,
        num_warps=4,
        enable_fp_fusion=True,
    )
    decode_expand[(x.shape[0], columns.shape[0])](
        y,
        batch.scratch,
        *shared,
        columns,
        *strides,
        y.stride(0),
        *place,
        splits,
        batch.scratch_width,
        ALIGNED=batch.aligned[site_index],
        BLOCK_R=_RANKS,
        BLOCK_N=TILE_COLUMNS,
        num_warps=4,
        enable_fp_fusion=True,
    )


def _runs(
    y: torch.Tensor, x: torch.Tensor, site_index: int, batch: TritonLoraBatch, weights: torch.Tensor
) -> None:
    site, table = batch.bank.sites[site_index], batch.table
    columns = batch.column_tiles[site_index]
    shared = (
        table.addresses,
        table.extents,
        batch.counts,
        batch.slots,
        batch.pair_starts,
        weights,
    )
    strides = (*weights.stride(), batch.max_pairs)
    place = (site_index, len(batch.bank.sites), table.slices)
    splits = batch.tile_splits(site_index)
    runs_shrink[(batch.tiles, batch.longest, len(site.out_slices) * splits)](
        x,
        batch.scratch,
        *shared,
        batch.tile_bounds,
        batch.tile_tokens,
        *strides,
        x.stride(0),
        *place,
        site.in_features,
        _chunk(site.in_features, _TILE_FEATURES),
        splits,
        batch.scratch_width,
        BLOCK_M=TILE_TOKENS,
        BLOCK_R=_TILE_RANKS,
        BLOCK_N=_TILE_FEATURES,
        num_warps=8 if x.dtype is torch.float32 else 4,  # without tensor cores, registers run out
        num_stages=2,
        enable_fp_fusion=True,
    )
    runs_expand[(batch.tiles, columns.shape[0])](
        y,
        batch.scratch,
        *shared,
        batch.tile_bounds,
        batch.tile_tokens,
        columns,
        *strides,
        y.stride(0),
        *place,
        splits,
        batch.scratch_width,
        ALIGNED=batch.aligned[site_index],
        BLOCK_M=TILE_TOKENS,
        BLOCK_R=_RANKS,
        BLOCK_N=TILE_COLUMNS,
        num_warps=8,  # 2 x [64, 128] fp32 accumulators: 64 registers a thread
        maxnreg=None if x.dtype is torch.float32 else _TWO_PROGRAMS,
        num_stages=2,
        enable_fp_fusion=True,
    )


def _chunk(in_features: int, block: int) -> int:
    """Return the features of a partial sum, a multiple of the features taken at once."""
    return -(-in_features // (split_count(in_features) * block)) * block
