"""The fused multi-LoRA operator for few rows, compiled by numba: every adapter is streamed once.

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

from kernels.native.memory import floats_at, ints_at, prefetch

GROUP_WORDS = 4
"""Words of a group: address of the adapter's row, address of its layout table, first pair, one past
the last."""

SITE_WORDS = 5
"""Words of a site in a layout table: in_features, rank, offset, slices, first slice's place."""

SLICE_WORDS = 6
"""Words of a slice: column, width, rank_start, rank, offset, index in the site's slices."""

(
    X,
    X_STRIDE,
    Y,
    Y_STRIDE,
    SITE,
    GROUPS,
    GROUP_COUNT,
    TOKENS,
    WEIGHTS,
    PAIR_STRIDE,
    SLICE_STRIDE,
    SHRUNK,
    SHRUNK_STRIDE,
    SHARE,
) = range(14)
CALL_WORDS = 14

GROUPS_EACH, PAIRS_EACH, SHRINK_ONLY, EXPAND_ONLY = range(4)
"""What a thread takes: whole groups; its part of each group's pairs; or, in two calls, groups to
shrink and then columns to expand."""

_LINE = 64  # bytes
_FLOAT = 4  # bytes
_COLUMNS_AT_ONCE = 128
_RANKS_AT_ONCE = 4
_FAST = {"reassoc", "contract", "nsz"}  # sums in vector order; NaN and infinity stay what they are


@njit(fastmath=_FAST, nogil=True, cache=True)
def _ask(address: int, size: int) -> None:
    for line in range(0, size, _LINE):
        prefetch(address + line)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _dot(left: Any, right: Any, count: int) -> Any:
    total = types.float32(0.0)
    for i in range(count):
        total += left[i] * right[i]
    return total


@njit(fastmath=_FAST, nogil=True, cache=True)
def _four_dots(a_at: int, row_bytes: int, x: Any, count: int, z: Any) -> None:
    """z[:4] = the products of four rows of A with x, which is loaded once."""
    a0, a1 = floats_at(a_at), floats_at(a_at + row_bytes)
    a2, a3 = floats_at(a_at + 2 * row_bytes), floats_at(a_at + 3 * row_bytes)
    z0 = z1 = z2 = z3 = types.float32(0.0)
    for i in range(count):
        value = x[i]
        z0 += a0[i] * value
        z1 += a1[i] * value
        z2 += a2[i] * value
        z3 += a3[i] * value
    z[0], z[1], z[2], z[3] = z0, z1, z2, z3


@njit(fastmath=_FAST, nogil=True, cache=True)
def _shrink(words: Any, row_at: int, site: Any, slices: Any, first: int, last: int) -> None:
    """z[pair] = A x[token], for the slices where the pair's weight is not zero."""
    tokens, weights = ints_at(words[TOKENS]), floats_at(words[WEIGHTS])
    width, row = site[0], row_at + _FLOAT * site[2]
    row_bytes = _FLOAT * width
    for s in range(site[3]):
        part = slices + s * SLICE_WORDS * 8
        rank_start, rank = ints_at(part)[2], ints_at(part)[3]
        weight_at = ints_at(part)[5] * words[SLICE_STRIDE]
        for r in range(rank_start, rank_start + rank, _RANKS_AT_ONCE):
            count = min(_RANKS_AT_ONCE, rank_start + rank - r)
            a = row + r * row_bytes
            _ask(a + _RANKS_AT_ONCE * row_bytes, count * row_bytes)
            for pair in range(first, last):
                if weights[pair * words[PAIR_STRIDE] + weight_at] != 0.0:
                    x = words[X] + _FLOAT * words[X_STRIDE] * tokens[pair]
                    z = words[SHRUNK] + _FLOAT * (words[SHRUNK_STRIDE] * pair + r)
                    if count == _RANKS_AT_ONCE:
                        _four_dots(a, row_bytes, floats_at(x), width, floats_at(z))
                    else:
                        for i in range(count):
                            left = floats_at(a + i * row_bytes)
                            floats_at(z)[i] = _dot(left, floats_at(x), width)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _expand(
    words: Any,
    row_at: int,
    site: Any,
    slices: Any,
    first: int,
    last: int,
    thread: int,
    threads: int,
) -> None:
    """y[token] += weight B z[pair], for this thread's share of each slice's columns."""
    tokens, weights = ints_at(words[TOKENS]), floats_at(words[WEIGHTS])
    for s in range(site[3]):
        part = ints_at(slices + s * SLICE_WORDS * 8)
        column, width, rank_start, rank = part[0], part[1], part[2], part[3]
        weight_at = part[5] * words[SLICE_STRIDE]
        begin = width * thread // threads // 16 * 16
        end = width if thread + 1 == threads else width * (thread + 1) // threads // 16 * 16
        base = row_at + _FLOAT * part[4]
        for start in range(begin, end, _COLUMNS_AT_ONCE):
            count = min(_COLUMNS_AT_ONCE, end - start)
            for r in range(rank):
                _ask(base + _FLOAT * (r * width + start + _COLUMNS_AT_ONCE), _FLOAT * count)
            for pair in range(first, last):
                weight = weights[pair * words[PAIR_STRIDE] + weight_at]
                if weight != 0.0:
                    z = floats_at(
                        words[SHRUNK] + _FLOAT * (words[SHRUNK_STRIDE] * pair + rank_start)
                    )
                    y = words[Y] + _FLOAT * (words[Y_STRIDE] * tokens[pair] + column + start)
                    _add_ranks(y, base + _FLOAT * start, width, z, weight, rank, count)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _add_ranks(
    y_at: int, b_at: int, width: int, z: Any, weight: Any, rank: int, count: int
) -> None:
    """y[:count] += weight * sum_r z[r] B[r, :count], eight ranks in one pass."""
    y = floats_at(y_at)
    row = _FLOAT * width
    r = 0
    while r + 8 <= rank:
        b0, b1 = floats_at(b_at + r * row), floats_at(b_at + (r + 1) * row)
        b2, b3 = floats_at(b_at + (r + 2) * row), floats_at(b_at + (r + 3) * row)
        b4, b5 = floats_at(b_at + (r + 4) * row), floats_at(b_at + (r + 5) * row)
        b6, b7 = floats_at(b_at + (r + 6) * row), floats_at(b_at + (r + 7) * row)
        z0, z1, z2, z3 = z[r] * weight, z[r + 1] * weight, z[r + 2] * weight, z[r + 3] * weight
        z4, z5, z6, z7 = z[r + 4] * weight, z[r + 5] * weight, z[r + 6] * weight, z[r + 7] * weight
        for c in range(count):
            y[c] += (
                z0 * b0[c]
                + z1 * b1[c]
                + z2 * b2[c]
                + z3 * b3[c]
                + z4 * b4[c]
                + z5 * b5[c]
                + z6 * b6[c]
                + z7 * b7[c]
            )
        r += 8
    while r < rank:
        b = floats_at(b_at + r * row)
        scaled = z[r] * weight
        for c in range(count):
            y[c] += scaled * b[c]
        r += 1


@njit(fastmath=_FAST, nogil=True, cache=True)
def _all_groups(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    share = words[SHARE]
    for g in range(words[GROUP_COUNT]):
        mine = g % threads == thread
        if share in (GROUPS_EACH, SHRINK_ONLY) and not mine:
            continue
        group = ints_at(words[GROUPS] + g * GROUP_WORDS * 8)
        site = ints_at(group[1] + words[SITE] * SITE_WORDS * 8)
        slices = group[1] + 8 * site[4]
        first, last = group[2], group[3]
        if share == PAIRS_EACH:
            count = last - first
            last = first + count * (thread + 1) // threads
            first = first + count * thread // threads
        if share != EXPAND_ONLY:
            _shrink(words, group[0], site, slices, first, last)
        if share == EXPAND_ONLY:
            _expand(words, group[0], site, slices, first, last, thread, threads)
        elif share != SHRINK_ONLY:
            _expand(words, group[0], site, slices, first, last, 0, 1)


@cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
def add_groups(address: int, thread: int, threads: int) -> None:
    """One thread's share of a call; ``address`` is that of its ``CALL_WORDS`` words."""
    _all_groups(address, thread, threads)
