"""The fused multi-LoRA operator for few rows, compiled by numba: every adapter is streamed once.

Adapters are held in fp32 or bf16; inputs, sums and results are fp32.

An adapter's tensors at a site lie one after another, A and then each B, and are read in that order
with the next lines asked for ahead of time, which is what the speed comes from: at one row per
adapter there are two floating-point operations per weight read.

A step's work is a list of groups, one per adapter, of the (token, adapter) pairs that use it. Where
no token has two adapters, a thread takes whole groups, or its part of few groups' pairs; else the
threads share out the adapters to shrink, and then the columns to expand, so that no two add to one
value. A token's result is the
sum over its own pairs, in the order of the groups, whoever computes it.
"""

from __future__ import annotations

from typing import Any

from numba import cfunc, njit, types

from kernels.native.memory import floats_at, halves_at, ints_at, prefetch, widened

GROUP_WORDS = 4
"""Words of a group: address of the adapter's row, address of its layout table, first pair, one past
the last."""

SITE_WORDS = 5
"""Words of a site in a layout table: in_features, rank, offset, slices, first slice's place."""

SLICE_WORDS = 6
"""Words of a slice: column, width, rank_start, rank, offset, index in the site's slices."""

(
    GROUPS,
    GROUP_COUNT,
    TOKENS,
    WEIGHTS,
    PAIR_STRIDE,
    SLICE_STRIDE,
    SHRUNK,
    SHRUNK_STRIDE,
    ELEMENT,
    SPLIT,
    MOST_THREADS,
) = range(11)
STEP_WORDS = 11
"""Words of a step, the same for all its sites."""

STEP, X, X_STRIDE, Y, Y_STRIDE, SITE, PHASE = range(7)
"""Words of a call: address of the step's words, the site's tensors and index, which phase."""

BY_GROUPS, BY_PAIRS, BY_PHASES = range(3)
"""What a thread takes: whole groups; its part of each group's pairs; or groups to shrink in the
first phase and columns to expand in the second. Else the second phase has nothing left to do."""

_LINE = 64  # bytes
_FLOAT = 4  # bytes
_HALF = 2  # bytes
_COLUMNS_AT_ONCE = 128
_RANKS_AT_ONCE = 4
_FAST = {"reassoc", "contract", "nsz"}  # sums in vector order; NaN and infinity stay what they are


@njit(fastmath=_FAST, nogil=True, cache=True)
def _ask(address: int, size: int) -> None:
    for line in range(0, size, _LINE):
        prefetch(address + line)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _dot(a: Any, x: Any, count: int) -> Any:
    total = types.float32(0.0)
    for i in range(count):
        total += widened(a[i]) * x[i]
    return total


@njit(fastmath=_FAST, nogil=True, cache=True)
def _four_dots(a0: Any, a1: Any, a2: Any, a3: Any, x: Any, count: int, z: Any) -> None:
    """z[:4] = the products of four rows of A with x, which is loaded once."""
    z0 = z1 = z2 = z3 = types.float32(0.0)
    for i in range(count):
        value = x[i]
        z0 += widened(a0[i]) * value
        z1 += widened(a1[i]) * value
        z2 += widened(a2[i]) * value
        z3 += widened(a3[i]) * value
    z[0], z[1], z[2], z[3] = z0, z1, z2, z3


@njit(fastmath=_FAST, nogil=True, cache=True)
def _dots(a: int, row: int, element: int, ranks: int, x: Any, width: int, z: Any) -> None:
    """z[:ranks] = the products of up to four rows of A, ``row`` bytes apart, with x."""
    if ranks == _RANKS_AT_ONCE:
        if element == _HALF:
            a2, a3 = halves_at(a + 2 * row), halves_at(a + 3 * row)
            _four_dots(halves_at(a), halves_at(a + row), a2, a3, x, width, z)
        else:
            b2, b3 = floats_at(a + 2 * row), floats_at(a + 3 * row)
            _four_dots(floats_at(a), floats_at(a + row), b2, b3, x, width, z)
        return
    for i in range(ranks):
        if element == _HALF:
            z[i] = _dot(halves_at(a + i * row), x, width)
        else:
            z[i] = _dot(floats_at(a + i * row), x, width)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _shrink(
    words: Any, step: Any, row_at: int, site: Any, slices: Any, first: int, last: int
) -> None:
    """z[pair] = A x[token], for the slices where the pair's weight is not zero."""
    tokens, weights = ints_at(step[TOKENS]), floats_at(step[WEIGHTS])
    element, width = step[ELEMENT], site[0]
    row, row_bytes = row_at + element * site[2], element * width
    for s in range(site[3]):
        part = slices + s * SLICE_WORDS * 8
        rank_start, rank = ints_at(part)[2], ints_at(part)[3]
        weight_at = ints_at(part)[5] * step[SLICE_STRIDE]
        for r in range(rank_start, rank_start + rank, _RANKS_AT_ONCE):
            count = min(_RANKS_AT_ONCE, rank_start + rank - r)
            a = row + r * row_bytes
            _ask(a + _RANKS_AT_ONCE * row_bytes, count * row_bytes)
            for pair in range(first, last):
                if weights[pair * step[PAIR_STRIDE] + weight_at] != 0.0:
                    x = words[X] + _FLOAT * words[X_STRIDE] * tokens[pair]
                    z = step[SHRUNK] + _FLOAT * (step[SHRUNK_STRIDE] * pair + r)
                    _dots(a, row_bytes, element, count, floats_at(x), width, floats_at(z))


@njit(fastmath=_FAST, nogil=True, cache=True)
def _expand(
    words: Any,
    step: Any,
    row_at: int,
    site: Any,
    slices: Any,
    first: int,
    last: int,
    thread: int,
    threads: int,
) -> None:
    """y[token] += weight B z[pair], for this thread's share of each slice's columns."""
    element = step[ELEMENT]
    tokens, weights = ints_at(step[TOKENS]), floats_at(step[WEIGHTS])
    for s in range(site[3]):
        part = ints_at(slices + s * SLICE_WORDS * 8)
        column, width, rank_start, rank = part[0], part[1], part[2], part[3]
        weight_at = part[5] * step[SLICE_STRIDE]
        begin = width * thread // threads // 16 * 16
        end = width if thread + 1 == threads else width * (thread + 1) // threads // 16 * 16
        base = row_at + element * part[4]
        for start in range(begin, end, _COLUMNS_AT_ONCE):
            count = min(_COLUMNS_AT_ONCE, end - start)
            for r in range(rank):
                _ask(base + element * (r * width + start + _COLUMNS_AT_ONCE), element * count)
            for pair in range(first, last):
                weight = weights[pair * step[PAIR_STRIDE] + weight_at]
                if weight != 0.0:
                    z = step[SHRUNK] + _FLOAT * (step[SHRUNK_STRIDE] * pair + rank_start)
                    y = words[Y] + _FLOAT * (words[Y_STRIDE] * tokens[pair] + column + start)
                    b = base + element * start
                    _add_ranks(floats_at(y), b, element * width, element, z, weight, rank, count)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _add_four(y: Any, b0: Any, b1: Any, b2: Any, b3: Any, z: Any, weight: Any, count: int) -> None:
    z0, z1, z2, z3 = z[0] * weight, z[1] * weight, z[2] * weight, z[3] * weight
    for c in range(count):
        first = z0 * widened(b0[c]) + z1 * widened(b1[c])
        y[c] += first + (z2 * widened(b2[c]) + z3 * widened(b3[c]))


@njit(fastmath=_FAST, nogil=True, cache=True)
def _add_one(y: Any, b: Any, scaled: Any, count: int) -> None:
    for c in range(count):
        y[c] += scaled * widened(b[c])


@njit(fastmath=_FAST, nogil=True, cache=True)
def _add_ranks(
    y: Any, b: int, row: int, element: int, z: int, weight: Any, rank: int, count: int
) -> None:
    """y[:count] += weight * sum_r z[r] B[r, :count]; B's rows are ``row`` bytes apart."""
    r = 0
    while r + 4 <= rank:
        at = b + r * row
        zr = floats_at(z + _FLOAT * r)
        if element == _HALF:
            b2, b3 = halves_at(at + 2 * row), halves_at(at + 3 * row)
            _add_four(y, halves_at(at), halves_at(at + row), b2, b3, zr, weight, count)
        else:
            c2, c3 = floats_at(at + 2 * row), floats_at(at + 3 * row)
            _add_four(y, floats_at(at), floats_at(at + row), c2, c3, zr, weight, count)
        r += 4
    while r < rank:
        if element == _HALF:
            _add_one(y, halves_at(b + r * row), floats_at(z)[r] * weight, count)
        else:
            _add_one(y, floats_at(b + r * row), floats_at(z)[r] * weight, count)
        r += 1


@njit(fastmath=_FAST, nogil=True, cache=True)
def _work(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    step = ints_at(words[STEP])
    split, phase = step[SPLIT], words[PHASE]
    threads = min(threads, step[MOST_THREADS])
    if thread >= threads or (phase == 1 and split != BY_PHASES):
        return
    for g in range(step[GROUP_COUNT]):
        by_columns = split == BY_PHASES and phase == 1
        if split != BY_PAIRS and not by_columns and g % threads != thread:
            continue
        group = ints_at(step[GROUPS] + g * GROUP_WORDS * 8)
        site = ints_at(group[1] + words[SITE] * SITE_WORDS * 8)
        slices = group[1] + 8 * site[4]
        first, last = group[2], group[3]
        if split == BY_PAIRS:
            count = last - first
            last = first + count * (thread + 1) // threads
            first = first + count * thread // threads
        if not by_columns:
            _shrink(words, step, group[0], site, slices, first, last)
        if by_columns:
            _expand(words, step, group[0], site, slices, first, last, thread, threads)
        elif split != BY_PHASES:
            _expand(words, step, group[0], site, slices, first, last, 0, 1)


@cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
def add_groups(address: int, thread: int, threads: int) -> None:
    """One thread's share of a call; ``address`` is that of its words, `STEP` to `PHASE`."""
    _work(address, thread, threads)
