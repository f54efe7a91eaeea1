"""Paged attention as Triton kernels, with a softmax that never holds all scores.

Keys are found token by token through the block table, so tiles of keys need not match blocks.
Places after a sequence's end are masked: what lies there, finite or not, is not read. Scores are
kept in units of log2.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# Triton reads annotations of a kernel's arguments as its own types.

import triton
import triton.language as tl


@triton.jit
def store(
    source,  # [T, 2 * H_kv, D]
    kv,  # [num_blocks, block_size, 2 * H_kv, D], contiguous
    kv_indices,  # [T], negative: nowhere
    source_token,
    source_head,
    DIM: tl.constexpr,
    SIZE: tl.constexpr,  # 2 * H_kv * D
    BLOCK: tl.constexpr,
):
    """Store one token per program."""
    token = tl.program_id(0)
    kv_index = tl.load(kv_indices + token)
    if kv_index < 0:
        return
    source += token.to(tl.int64) * source_token
    for start in range(0, SIZE, BLOCK):
        e = start + tl.arange(0, BLOCK)
        values = tl.load(source + (e // DIM) * source_head + e % DIM, mask=e < SIZE)
        tl.store(kv + kv_index * SIZE + e, values, mask=e < SIZE)


@triton.jit
def _split_bounds(length, window, SPLITS: tl.constexpr, SPLIT_KEYS: tl.constexpr):
    """Return the first key that a decode row sees, and keys per split."""
    begin = tl.maximum(length - window, 0)
    keys = tl.maximum(tl.cdiv(length - begin, SPLITS), SPLIT_KEYS)
    return begin, tl.cdiv(keys, SPLIT_KEYS) * SPLIT_KEYS


@triton.jit
def _attend(
    q,  # [M, D]
    total,
    top,
    norm,
    seen,  # [M, N]
    places,  # [N], of key 0 of the head group
    inside,  # [N]
    values_from,
    d,
    scale,
    DIM: tl.constexpr,
):
    """Add one tile of keys to the running sum, its largest score and its normaliser."""
    k = tl.load(places[None, :] + d[:, None], mask=inside[None, :] & (d < DIM)[:, None], other=0.0)
    scores = tl.dot(q, k, input_precision="ieee") * scale
    scores = tl.where(seen, scores, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, axis=1))
    origin = tl.where(highest == float("-inf"), 0.0, highest)  # no key seen so far
    weights = tl.exp2(scores - origin[:, None])
    shrunk = tl.exp2(top - origin)
    v = tl.load(
        places[:, None] + values_from + d[None, :],
        mask=inside[:, None] & (d < DIM)[None, :],
        other=0.0,
    )
    total = total * shrunk[:, None]
    total = tl.dot(weights.to(v.dtype), v, total, input_precision="ieee")
    return total, highest, norm * shrunk + tl.sum(weights, axis=1)


@triton.jit(do_not_specialize=["window", "table_row"])
def decode(
    q,  # [T, H, D]
    kv,  # [num_blocks, block_size, 2 * H_kv, D]
    out,  # [T, H, D] where SPLITS is 1
    sums,  # [rows, H, SPLITS, D] fp32, not normalised
    stats,  # [rows, H, SPLITS, 2] fp32: largest score, normaliser
    rows,
    block_tables,
    q_token,
    q_head,
    out_token,
    kv_block,
    kv_token,
    kv_head,
    table_row,
    scale,  # times log2(e)
    window,
    GROUP: tl.constexpr,  # query heads per key/value head
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Attend for one decode row, key/value head and piece of the context per program."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    if tl.load(rows + row * 3 + 2) != 1:
        return
    token = tl.load(rows + row * 3).to(tl.int64)
    length = tl.load(rows + row * 3 + 1)
    begin, keys = _split_bounds(length, window, SPLITS, SPLIT_KEYS)
    first = begin + split * keys
    if first >= length:
        return
    last = tl.minimum(first + keys, length)
    member = tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    heads = head * GROUP + member
    mask = (member < GROUP)[:, None] & (d < DIM)[None, :]
    queries = tl.load(
        q + token * q_token + heads[:, None] * q_head + d[None, :], mask=mask, other=0.0
    )
    total = tl.full([BLOCK_H, BLOCK_D], 0.0, tl.float32)
    top = tl.full([BLOCK_H], float("-inf"), tl.float32)
    norm = tl.full([BLOCK_H], 0.0, tl.float32)
    for start in range(first, last, BLOCK_N):
        p = start + tl.arange(0, BLOCK_N)
        inside = p < last
        block = tl.load(block_tables + row * table_row + p // BLOCK_SIZE, mask=inside, other=0).to(
            tl.int64
        )
        places = kv + block * kv_block + (p % BLOCK_SIZE) * kv_token + head * kv_head
        total, top, norm = _attend(
            queries,
            total,
            top,
            norm,
            inside[None, :],
            places,
            inside,
            KV_HEADS * kv_head,
            d,
            scale,
            DIM,
        )
    if SPLITS == 1:
        target = out + token * out_token + heads[:, None] * DIM + d[None, :]
        tl.store(target, (total / norm[:, None]).to(out.dtype.element_ty), mask=mask)
    else:
        place = (row.to(tl.int64) * KV_HEADS * GROUP + heads) * SPLITS + split
        tl.store(sums + place[:, None] * DIM + d[None, :], total, mask=mask)
        tl.store(stats + place * 2, top, mask=member < GROUP)
        tl.store(stats + place * 2 + 1, norm, mask=member < GROUP)


@triton.jit(do_not_specialize=["window"])
def merge(
    out,  # [T, H, D]
    sums,
    stats,
    rows,
    out_token,
    window,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge the pieces of one decode row and query head per program, in order."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    if tl.load(rows + row * 3 + 2) != 1:
        return
    token = tl.load(rows + row * 3).to(tl.int64)
    length = tl.load(rows + row * 3 + 1)
    begin, keys = _split_bounds(length, window, SPLITS, SPLIT_KEYS)
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    written = begin + split * keys < length
    place = (row.to(tl.int64) * HEADS + head) * SPLITS + split
    top = tl.load(stats + place * 2, mask=written, other=float("-inf"))
    norm = tl.load(stats + place * 2 + 1, mask=written, other=0.0)
    weights = tl.exp2(top - tl.max(top, axis=0))
    pieces = tl.load(
        sums + place[:, None] * DIM + d[None, :],
        mask=written[:, None] & (d < DIM)[None, :],
        other=0.0,
    )
    merged = tl.sum(pieces * weights[:, None], axis=0) / tl.sum(norm * weights, axis=0)
    target = out + token * out_token + head * DIM + d
    tl.store(target, merged.to(out.dtype.element_ty), mask=d < DIM)


@triton.jit(do_not_specialize=["window", "table_row"])
def prefill(
    q,  # [T, H, D]
    kv,  # [num_blocks, block_size, 2 * H_kv, D]
    out,  # [T, H, D]
    rows,
    block_tables,
    tile_bounds,
    q_token,
    q_head,
    out_token,
    kv_block,
    kv_token,
    kv_head,
    table_row,
    scale,  # times log2(e)
    window,
    GROUP: tl.constexpr,  # query heads per key/value head
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Attend for one tile of a row's new tokens and query head per program."""
    row = tl.load(tile_bounds + tl.program_id(0) * 2)
    start = tl.load(tile_bounds + tl.program_id(0) * 2 + 1)
    head = tl.program_id(1)
    token = tl.load(rows + row * 3)
    length = tl.load(rows + row * 3 + 1)
    new = tl.load(rows + row * 3 + 2)
    context = length - new
    i = start + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    mask = (i < new)[:, None] & (d < DIM)[None, :]
    position = context + i
    tokens = (token + i).to(tl.int64)[:, None]
    queries = tl.load(q + tokens * q_token + head * q_head + d[None, :], mask=mask, other=0.0)
    total = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    norm = tl.full([BLOCK_M], 0.0, tl.float32)
    first = tl.maximum(context + start - window + 1, 0)
    last = tl.minimum(context + start + BLOCK_M, length)
    for key in range(first, last, BLOCK_N):
        p = key + tl.arange(0, BLOCK_N)
        inside = p < last
        block = tl.load(block_tables + row * table_row + p // BLOCK_SIZE, mask=inside, other=0).to(
            tl.int64
        )
        places = kv + block * kv_block + (p % BLOCK_SIZE) * kv_token + (head // GROUP) * kv_head
        ahead = position[:, None] - p[None, :]
        seen = inside[None, :] & (ahead >= 0) & (ahead < window)
        total, top, norm = _attend(
            queries, total, top, norm, seen, places, inside, KV_HEADS * kv_head, d, scale, DIM
        )
    norm = tl.where(norm == 0.0, 1.0, norm)  # lanes after the row's end
    target = out + tokens * out_token + head * DIM + d[None, :]
    tl.store(target, (total / norm[:, None]).to(out.dtype.element_ty), mask=mask)
