"""Decode attention over the paged cache, read in place; fp32, compiled by numba.

A work item is one sequence's key/value head with the query heads that share it. Keys are read
once for all of them, then values; scores stay in the thread's scratch. Sums run in the order of
positions, so a row's result does not depend on the other rows.
"""

from typing import Any

from numba import cfunc, njit, types

from kernels.native import blocks
from kernels.native.arithmetic import fast_exp
from kernels.native.memory import floats_at, ints_at, prefetch

(
    TOKENS,
    TABLES,
    TABLE_STRIDE,
    FIRST,
    LAST,
    ROWS,
    SCRATCH,
    SCRATCH_STRIDE,
    MOST_THREADS,
) = range(9)
STEP_WORDS = 9
"""Words of a step, the same for all layers of one window."""

STEP, Q, Q_STRIDE, OUT, CACHE, HEADS, KV_HEADS, DIM, BLOCK_SIZE, SCALE = range(10)
"""Words of a call: address of the step's words, and the layer's own."""

_FLOAT = 4  # bytes
_LINE = 64  # bytes
_AHEAD = 6  # positions
_FAST = {"reassoc", "contract", "nsz"}  # sums in vector order; NaN and infinity stay what they are


@njit(nogil=True, cache=True)
def _dots(k: int, k_row: int, q: int, q_row: int, s: int, s_row: int, heads: int, dim: int) -> None:
    """Compute scores of four positions' keys with each of some heads."""
    g = 0
    while g + 4 <= heads:
        at = q + g * q_row
        after, last = at + 2 * q_row, at + 3 * q_row
        blocks.dots_4x4(k, k_row, at, at + q_row, after, last, s + g * s_row, s_row, dim)
        g += 4
    at, to = q + g * q_row, s + g * s_row
    if heads - g == 3:
        blocks.dots_3x4(k, k_row, at, at + q_row, at + 2 * q_row, to, s_row, dim)
    elif heads - g == 2:
        blocks.dots_2x4(k, k_row, at, at + q_row, to, s_row, dim)
    elif heads - g == 1:
        blocks.dots_1x4(k, k_row, at, to, s_row, dim)


@njit(nogil=True, cache=True)
def _adds(v: int, v_row: int, y: int, y_row: int, p: int, p_row: int, heads: int, dim: int) -> None:
    """Add four positions' values to each of some heads."""
    g = 0
    while g + 4 <= heads:
        at = y + g * y_row
        after, last = at + 2 * y_row, at + 3 * y_row
        blocks.adds_4x4(v, v_row, at, at + y_row, after, last, p + g * p_row, p_row, dim)
        g += 4
    at, factors = y + g * y_row, p + g * p_row
    if heads - g == 3:
        blocks.adds_3x4(v, v_row, at, at + y_row, at + 2 * y_row, factors, p_row, dim)
    elif heads - g == 2:
        blocks.adds_2x4(v, v_row, at, at + y_row, factors, p_row, dim)
    elif heads - g == 1:
        blocks.adds_1x4(v, v_row, at, factors, p_row, dim)


@njit(nogil=True, cache=True)
def _ask(address: int, row: int, count: int, size: int) -> None:
    """Prefetch the same part of some positions that come later."""
    for position in range(_AHEAD, _AHEAD + count):
        for line in range(0, size, _LINE):
            prefetch(address + position * row + line)


@njit(nogil=True, cache=True)
def _in_block(position: int, size: int, last: int) -> bool:
    """Return whether four positions from here lie in one block and are all seen."""
    return position % size + 4 <= size and position + 4 <= last


@njit(nogil=True, cache=True)
def _score(
    words: Any, q_at: int, head_at: int, table: Any, first: int, last: int, s_at: int
) -> None:
    """Compute scores[g, position - first] = q_g . k, for the heads of a group."""
    dim, size = words[DIM], words[BLOCK_SIZE]
    group, s_row = words[HEADS] // words[KV_HEADS], _FLOAT * (last - first)
    row, q_row = _FLOAT * 2 * words[KV_HEADS] * dim, _FLOAT * dim
    position = first
    while position < last:
        k = head_at + (table[position // size] * size + position % size) * row
        s = s_at + _FLOAT * (position - first)
        if _in_block(position, size, last):
            _ask(k, row, 4, q_row)
            _dots(k, row, q_at, q_row, s, s_row, group, dim)
            position += 4
        else:
            _ask(k, row, 1, q_row)
            for g in range(group):
                blocks.dots_1x1(k, row, q_at + g * q_row, s + g * s_row, s_row, dim)
            position += 1


@njit(fastmath={"contract"}, nogil=True, cache=True)
def _exponentials(scores: Any, length: int, largest: Any) -> None:
    for i in range(length):
        scores[i] = fast_exp(scores[i] - largest)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _softmax(scores: Any, length: int, scale: Any) -> None:
    for i in range(length):
        scores[i] *= scale
    largest = scores[0]
    for i in range(1, length):
        largest = max(largest, scores[i])
    _exponentials(scores, length, largest)
    total = types.float32(0.0)
    for i in range(length):
        total += scores[i]
    inverse = types.float32(1.0) / total
    for i in range(length):
        scores[i] *= inverse


@njit(nogil=True, cache=True)
def _weigh(
    words: Any, out_at: int, head_at: int, table: Any, first: int, last: int, p_at: int
) -> None:
    """Compute out_g = sum of p[g, position - first] v, for the heads of a group."""
    dim, size = words[DIM], words[BLOCK_SIZE]
    group, p_row = words[HEADS] // words[KV_HEADS], _FLOAT * (last - first)
    row, out_row = _FLOAT * 2 * words[KV_HEADS] * dim, _FLOAT * dim
    out = floats_at(out_at)
    for i in range(group * dim):
        out[i] = 0.0
    position = first
    while position < last:
        v = head_at + (table[position // size] * size + position % size) * row
        p = p_at + _FLOAT * (position - first)
        if _in_block(position, size, last):
            _ask(v, row, 4, out_row)
            _adds(v, row, out_at, out_row, p, p_row, group, dim)
            position += 4
        else:
            _ask(v, row, 1, out_row)
            for g in range(group):
                blocks.adds_1x1(v, row, out_at + g * out_row, p + g * p_row, p_row, dim)
            position += 1


@njit(fastmath=_FAST, nogil=True, cache=True)
def _attend(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    step = ints_at(words[STEP])
    threads = min(threads, step[MOST_THREADS])
    if thread >= threads:
        return
    kv_heads, dim = words[KV_HEADS], words[DIM]
    group = words[HEADS] // kv_heads
    scale = floats_at(words[SCALE])[0]
    items = step[ROWS] * kv_heads
    scratch = step[SCRATCH] + _FLOAT * step[SCRATCH_STRIDE] * thread
    for item in range(items * thread // threads, items * (thread + 1) // threads):
        row, head = item // kv_heads, item % kv_heads
        token = ints_at(step[TOKENS])[row]
        table = ints_at(step[TABLES] + 8 * step[TABLE_STRIDE] * row)
        first, last = ints_at(step[FIRST])[row], ints_at(step[LAST])[row]
        q_at = words[Q] + _FLOAT * (token * words[Q_STRIDE] + head * group * dim)
        out_at = words[OUT] + _FLOAT * (token * words[HEADS] + head * group) * dim
        keys = words[CACHE] + _FLOAT * head * dim
        _score(words, q_at, keys, table, first, last, scratch)
        for g in range(group):
            _softmax(floats_at(scratch + _FLOAT * g * (last - first)), last - first, scale)
        values = words[CACHE] + _FLOAT * (kv_heads + head) * dim
        _weigh(words, out_at, values, table, first, last, scratch)


@cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
def attend(address: int, thread: int, threads: int) -> None:
    """Compute one thread's part of a call; ``address`` is that of its words, `STEP` to `SCALE`.

    Addresses: of queries [.., Q_STRIDE] and results [.., HEADS, DIM] fp32, of a layer's cache
    [blocks, BLOCK_SIZE, 2 KV_HEADS, DIM] and the scale. A step's: the token of each row, block
    tables [ROWS, TABLE_STRIDE], first and one past the last position each row sees, a scratch of
    SCRATCH_STRIDE fp32 per thread. Integers are 64 bits.
    """
    _attend(address, thread, threads)
