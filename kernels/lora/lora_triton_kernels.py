"""Multi-LoRA shrink and expand as Triton kernels; this file has those of single tokens.

A row of y gets ``sum_k w[k] * B[slot_k] A[slot_k] x`` (scaling is folded into B) in two launches:
shrinking writes ``A x`` into an fp32 scratch, expanding adds ``B`` times it to y, and one of the
two multiplies by ``w[k]``. Programs look up slots, weights, ranks and addresses when they run, so a
captured graph follows the buffers.

Every sum has one order: no atomics, and expanding adds pairs and partial sums in turn. Lanes
outside a rank, a width or a row are masked, so nothing that is not this row's own is read.

Adapters are addressed by integer: each is one row somewhere on the device, aligned to 16 bytes.
Integers that vary between sites or batches are not specialised on; what remains is whether widths
are multiples of 16, which decides about vector loads.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# Triton reads annotations of a kernel's arguments as its own types.

import triton
import triton.language as tl


@triton.jit
def adapter_record(addresses, extents, slot, site, sites, part, slices, dtype: tl.constexpr):
    """Return the row of a slot's adapter, and its record at one slice of a site."""
    address = tl.load(addresses + slot)
    row = tl.multiple_of(address.to(tl.pointer_type(dtype)), 16)
    record = extents + ((slot.to(tl.int64) * sites + site) * slices + part) * 4
    return row, record


@triton.jit(
    do_not_specialize=[
        "weight_pair",
        "weight_part",
        "slot_row",
        "site",
        "sites",
        "slices",
        "pairs",
        "splits",
        "scratch_width",
    ]
)
def decode_shrink(
    x,  # [T, in_features], rows x_row apart
    scratch,  # [pairs, splits, scratch_width] fp32
    addresses,
    extents,
    counts,
    slots,
    pair_starts,  # [T], each token's first pair
    weights,  # by pair
    weight_pair,
    weight_part,
    slot_row,
    x_row,
    site,
    sites,
    slices,
    in_features,
    chunk,  # features of a split, a multiple of BLOCK_N
    pairs,
    splits,
    scratch_width,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute one (row, pair), split of the features and slice per program."""
    token = tl.program_id(0) // pairs
    pair = tl.program_id(0) % pairs
    split = tl.program_id(1)
    part = tl.program_id(2)
    if pair >= tl.load(counts + token):
        return
    place = tl.load(pair_starts + token) + pair
    weight = tl.load(weights + place * weight_pair + part * weight_part).to(tl.float32)
    if weight == 0.0:
        return
    slot = tl.load(slots + token * slot_row + pair)
    dtype: tl.constexpr = x.dtype.element_ty
    row, record = adapter_record(addresses, extents, slot, site, sites, part, slices, dtype)
    rank = tl.load(record).to(tl.int32)
    rank_start = tl.load(record + 1)
    a = row + tl.multiple_of(tl.load(record + 2), 16) + rank_start * in_features
    x += token.to(tl.int64) * x_row
    scratch += (place.to(tl.int64) * splits + split) * scratch_width + rank_start
    first = split * chunk
    last = tl.minimum(first + chunk, in_features)
    for rank_first in range(0, rank, BLOCK_R):
        r = rank_first + tl.arange(0, BLOCK_R)
        products = tl.full([BLOCK_R, BLOCK_N], 0.0, tl.float32)
        for feature in range(first, last, BLOCK_N):
            n = feature + tl.arange(0, BLOCK_N)
            inside = n < in_features
            values = tl.load(x + n, mask=inside, other=0.0).to(tl.float32)
            block = tl.load(
                a + r[:, None] * in_features + n[None, :],
                mask=(r < rank)[:, None] & inside[None, :],
                other=0.0,
            )
            products += block.to(tl.float32) * values[None, :]
        tl.store(scratch + r, tl.sum(products, axis=1) * weight, mask=r < rank)


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
def decode_expand(
    y,  # [T, out_features], rows y_row apart
    scratch,  # [pairs, splits, scratch_width] fp32
    addresses,
    extents,
    counts,
    slots,
    pair_starts,  # [T], each token's first pair
    weights,  # by pair
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
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Compute one row and tile of columns per program, over the row's pairs in order."""
    token = tl.program_id(0)
    count = tl.load(counts + token)
    if count == 0:
        return
    tile = column_tiles + tl.program_id(1) * 4
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
    total = tl.full([BLOCK_N], 0.0, tl.float32)
    touched = 0
    start = tl.load(pair_starts + token)
    for pair in range(count):
        place = start + pair
        weight = tl.load(weights + place * weight_pair + part * weight_part)
        slot = tl.load(slots + token * slot_row + pair)
        row, record = adapter_record(addresses, extents, slot, site, sites, part, slices, dtype)
        rank = tl.load(record).to(tl.int32)
        rank = tl.where(weight.to(tl.float32) == 0.0, 0, rank)
        b = row + tl.multiple_of(tl.load(record + 3), 16)
        shrunk = scratch + place.to(tl.int64) * splits * scratch_width
        shrunk += tl.load(record + 1)
        for rank_first in range(0, rank, BLOCK_R):
            r = rank_first + tl.arange(0, BLOCK_R)
            z = tl.full([BLOCK_R], 0.0, tl.float32)
            for split in range(splits):
                z += tl.load(shrunk + split * scratch_width + r, mask=r < rank, other=0.0)
            block = tl.load(
                b + r[:, None] * width + n[None, :],
                mask=(r < rank)[:, None] & inside[None, :],
                other=0.0,
            )
            total += tl.sum(block.to(tl.float32) * z[:, None], axis=0)
        touched += rank
    if touched > 0:
        target = y + token.to(tl.int64) * y_row + column + n
        base = tl.load(target, mask=inside, other=0.0).to(tl.float32)
        tl.store(target, (base + total).to(dtype), mask=inside)
