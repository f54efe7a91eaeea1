"""Multi-LoRA shrink and expand over tiles of tokens with the same adapters, by matrix products.

What `kernels.lora.lora_triton_kernels` says of its kernels is true of these.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# Triton reads annotations of a kernel's arguments as its own types.

import triton
import triton.language as tl

from kernels.lora.lora_triton_kernels import adapter_record


@triton.jit(
    do_not_specialize=[
        "weight_pair",
        "weight_part",
        "slot_row",
        "site",
        "sites",
        "slices",
        "splits",
        "scratch_width",
    ]
)
def runs_shrink(
    x,  # [T, in_features], rows x_row apart
    scratch,  # [pairs, splits, scratch_width] fp32
    addresses,
    extents,
    counts,
    slots,
    pair_starts,  # [T], each token's first pair
    weights,  # by pair
    tile_bounds,
    tile_tokens,  # tokens of each tile, one tile's after another's
    weight_pair,
    weight_part,
    slot_row,
    x_row,
    site,
    sites,
    slices,
    in_features,
    chunk,  # features of a partial sum, a multiple of BLOCK_N
    splits,  # programs that share a sum: one for each chunk, or 1
    scratch_width,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute one tile of tokens with the same adapters, pair, slice and split of the features per
    program.

    A sum is always that of its chunks' sums in order, so it has the same bits in one program as in
    several whose parts are added up later.
    """
    tile = tile_bounds + tl.program_id(0) * 3
    pair = tl.program_id(1)
    part = tl.program_id(2) // splits
    split = tl.program_id(2) % splits
    run = tl.load(tile)
    if pair >= tl.load(counts + run):
        return
    at = tl.load(tile + 1) + tl.arange(0, BLOCK_M)
    own = at < tl.load(tile + 2)
    t = tl.load(tile_tokens + at, mask=own, other=0)
    place = tl.load(pair_starts + t, mask=own, other=0) + pair
    weight = tl.load(weights + place * weight_pair + part * weight_part, mask=own, other=0.0)
    live = weight.to(tl.float32) != 0.0
    slot = tl.load(slots + run * slot_row + pair)
    dtype: tl.constexpr = x.dtype.element_ty
    row, record = adapter_record(addresses, extents, slot, site, sites, part, slices, dtype)
    rank = tl.load(record).to(tl.int32)
    rank = tl.where(tl.max(live.to(tl.int32), axis=0) == 0, 0, rank)
    rank_start = tl.load(record + 1)
    a = row + tl.multiple_of(tl.load(record + 2), 16) + rank_start * in_features
    rows = x + t.to(tl.int64)[:, None] * x_row
    shrunk = scratch + ((place.to(tl.int64) * splits + split) * scratch_width + rank_start)[:, None]
    first = split * chunk
    last = tl.where(splits == 1, in_features, tl.minimum(first + chunk, in_features))
    for rank_first in range(0, rank, BLOCK_R):
        r = rank_first + tl.arange(0, BLOCK_R)
        z = tl.full([BLOCK_M, BLOCK_R], 0.0, tl.float32)
        for begin in range(first, last, chunk):
            partial = tl.full([BLOCK_M, BLOCK_R], 0.0, tl.float32)
            for feature in range(begin, tl.minimum(begin + chunk, last), BLOCK_N):
                n = feature + tl.arange(0, BLOCK_N)
                inside = n < in_features
                values = tl.load(rows + n[None, :], mask=live[:, None] & inside[None, :], other=0.0)
                block = tl.load(
                    a + r[None, :] * in_features + n[:, None],
                    mask=(r < rank)[None, :] & inside[:, None],
                    other=0.0,
                )
                partial = tl.dot(values, block, partial, input_precision="ieee")
            z += partial
        tl.store(shrunk + r[None, :], z, mask=live[:, None] & (r < rank)[None, :])


@triton.jit(
    do_not_specialize=[
        "weight_pair",
        "weight_part",
        "slot_row",
        "site",
        "sites",
        "slices",
        "splits",
        "scratch_width",
    ]
)
def runs_expand(
    y,  # [T, out_features], rows y_row apart
    scratch,  # [pairs, splits, scratch_width] fp32
    addresses,
    extents,
    counts,
    slots,
    pair_starts,  # [T], each token's first pair
    weights,  # by pair
    tile_bounds,
    tile_tokens,
    column_tiles,
    weight_pair,
    weight_part,
    slot_row,
    y_row,
    site,
    sites,
    slices,
    splits,
    scratch_width,
    ALIGNED: tl.constexpr,  # all slices' widths are multiples of 16
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute one tile of tokens with the same adapters and tile of columns per program, over their
    pairs in order."""
    bounds = tile_bounds + tl.program_id(0) * 3
    tile = column_tiles + tl.program_id(1) * 4
    run = tl.load(bounds)
    at = tl.load(bounds + 1) + tl.arange(0, BLOCK_M)
    own = at < tl.load(bounds + 2)
    t = tl.load(tile_tokens + at, mask=own, other=0)
    part = tl.load(tile)
    first = tl.multiple_of(tl.load(tile + 1), BLOCK_N)
    width = tl.load(tile + 2)
    column = tl.load(tile + 3)
    if ALIGNED:
        width = tl.multiple_of(width, 16)
        column = tl.multiple_of(column, 16)
    n = first + tl.arange(0, BLOCK_N)
    inside = n < width
    dtype: tl.constexpr = y.dtype.element_ty
    total = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    touched = tl.full([BLOCK_M], 0, tl.int32)
    starts = tl.load(pair_starts + t, mask=own, other=0)
    for pair in range(tl.load(counts + run)):
        place = starts + pair
        weight = tl.load(weights + place * weight_pair + part * weight_part, mask=own, other=0.0)
        weight = weight.to(tl.float32)
        live = weight != 0.0
        slot = tl.load(slots + run * slot_row + pair)
        row, record = adapter_record(addresses, extents, slot, site, sites, part, slices, dtype)
        rank = tl.load(record).to(tl.int32)
        rank = tl.where(tl.max(live.to(tl.int32), axis=0) == 0, 0, rank)
        b = row + tl.multiple_of(tl.load(record + 3), 16)
        shrunk = place.to(tl.int64) * splits * scratch_width + tl.load(record + 1)
        added = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
        for rank_first in range(0, rank, BLOCK_R):
            r = rank_first + tl.arange(0, BLOCK_R)
            z = tl.full([BLOCK_M, BLOCK_R], 0.0, tl.float32)
            for split in range(splits):
                z += tl.load(
                    scratch + split * scratch_width + shrunk[:, None] + r[None, :],
                    mask=live[:, None] & (r < rank)[None, :],
                    other=0.0,
                )
            z *= weight[:, None]
            block = tl.load(
                b + r[:, None] * width + n[None, :],
                mask=(r < rank)[:, None] & inside[None, :],
                other=0.0,
            )
            added = tl.dot(z.to(dtype), block, added, input_precision="ieee")
        # A token that this pair does not touch must not meet its B, finite or not.
        total += tl.where(live[:, None], added, 0.0)
        touched += tl.where(live, rank, 0)
    mask = (touched > 0)[:, None] & inside[None, :]
    target = y + t.to(tl.int64)[:, None] * y_row + (column + n)[None, :]
    base = tl.load(target, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, (base + total).to(dtype), mask=mask)
