"""Decode attention over the paged cache, read in place; fp32, compiled by numba.

A work item is one sequence's key/value head with the query heads that share it. Keys are read
once for all of them, then values; scores stay in the thread's scratch. Sums run in the order of
positions, so a row's result does not depend on the rows beside it.
"""

from typing import Any

from numba import cfunc, njit, types

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


@njit(fastmath=_FAST, nogil=True, cache=True)
def _score(
    words: Any, q_at: int, head_at: int, table: Any, first: int, last: int, s_at: int
) -> None:
    """scores[g, position - first] = q_g . k / the scale's inverse, for the heads of a group."""
    dim, size = words[DIM], words[BLOCK_SIZE]
    group, length = words[HEADS] // words[KV_HEADS], last - first
    position_bytes = _FLOAT * 2 * words[KV_HEADS] * dim
    scale = floats_at(words[SCALE])[0]
    for position in range(first, last):
        k_at = head_at + (table[position // size] * size + position % size) * position_bytes
        for line in range(0, _FLOAT * dim, _LINE):
            prefetch(k_at + _AHEAD * position_bytes + line)
        k = floats_at(k_at)
        for g in range(group):
            q = floats_at(q_at + _FLOAT * g * dim)
            total = types.float32(0.0)
            for i in range(dim):
                total += q[i] * k[i]
            floats_at(s_at + _FLOAT * (g * length + position - first))[0] = total * scale


@njit(fastmath={"contract"}, nogil=True, cache=True)
def _exponentials(scores: Any, length: int, largest: Any) -> None:
    for i in range(length):
        scores[i] = fast_exp(scores[i] - largest)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _softmax(scores: Any, length: int) -> None:
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


@njit(fastmath=_FAST, nogil=True, cache=True)
def _weigh(
    words: Any, out_at: int, head_at: int, table: Any, first: int, last: int, p_at: int
) -> None:
    """out_g = sum of p[g, position - first] v, four positions of a block in one pass."""
    dim, size = words[DIM], words[BLOCK_SIZE]
    group, length = words[HEADS] // words[KV_HEADS], last - first
    position_bytes = _FLOAT * 2 * words[KV_HEADS] * dim
    for g in range(group):
        out = floats_at(out_at + _FLOAT * g * dim)
        for i in range(dim):
            out[i] = 0.0
    position = first
    while position < last:
        place = position % size
        v_at = head_at + (table[position // size] * size + place) * position_bytes
        count = 4 if place + 4 <= size and position + 4 <= last else 1
        for ahead in range(count):
            for line in range(0, _FLOAT * dim, _LINE):
                prefetch(v_at + (_AHEAD + ahead) * position_bytes + line)
        v0 = floats_at(v_at)
        for g in range(group):
            out = floats_at(out_at + _FLOAT * g * dim)
            p = floats_at(p_at + _FLOAT * (g * length + position - first))
            if count == 4:
                v1, v2 = floats_at(v_at + position_bytes), floats_at(v_at + 2 * position_bytes)
                v3 = floats_at(v_at + 3 * position_bytes)
                p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
                for i in range(dim):
                    out[i] += p0 * v0[i] + p1 * v1[i] + p2 * v2[i] + p3 * v3[i]
            else:
                p0 = p[0]
                for i in range(dim):
                    out[i] += p0 * v0[i]
        position += count


@njit(fastmath=_FAST, nogil=True, cache=True)
def _attend(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    step = ints_at(words[STEP])
    threads = min(threads, step[MOST_THREADS])
    if thread >= threads:
        return
    kv_heads, dim = words[KV_HEADS], words[DIM]
    group = words[HEADS] // kv_heads
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
            _softmax(floats_at(scratch + _FLOAT * g * (last - first)), last - first)
        values = words[CACHE] + _FLOAT * (kv_heads + head) * dim
        _weigh(words, out_at, values, table, first, last, scratch)


@cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
def attend(address: int, thread: int, threads: int) -> None:
    """One thread's share of a call; ``address`` is that of its words, `STEP` to `SCALE`.

    Addresses: of queries [.., Q_STRIDE] and results [.., HEADS, DIM] fp32, of a layer's cache
    [blocks, BLOCK_SIZE, 2 KV_HEADS, DIM] and the scale. A step's: the token of each row, block
    tables [ROWS, TABLE_STRIDE], first and one past the last position each row sees, a scratch of
    SCRATCH_STRIDE fp32 per thread. Integers are 64 bits.
    """
    _attend(address, thread, threads)
