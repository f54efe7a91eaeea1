"""The fused multi-LoRA operator, compiled by numba: every adapter is streamed once.

Adapters are held in fp32 or bf16; inputs, sums and results are fp32.

An adapter's tensors at a site lie one after another, A and then each B, and are read in that order
with the next lines asked for ahead of time, which is what the speed comes from: at one row per
adapter there are two floating-point operations per weight read. Where an adapter has more tokens,
four go through it together (`kernels.lora.native_blocks`).

A step's work is a list of groups, one per adapter, of the (token, adapter) pairs that use it. How
the threads share it out depends on the step, but no two ever add to one value, and a token's result
is the sum over its own pairs, in the order of the groups, on any thread.
"""

from __future__ import annotations

from typing import Any

from numba import cfunc, njit, types

from kernels.lora.native_blocks import add_to_four, add_to_one, dots_of_four, dots_of_one
from kernels.native.blocks import ROWS
from kernels.native.memory import floats_at, ints_at, prefetch

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
    SHRUNK,
    SHRUNK_STRIDE,
    ELEMENT,
    SPLIT,
    MOST_THREADS,
    BOUNDS,
) = range(9)
STEP_WORDS = 9
"""Words of a step, the same for all its sites."""

WEIGHTS, PAIR_STRIDE, SLICE_STRIDE = range(3)
WEIGHT_WORDS = 3
"""Words of the pairs' weights at a site: address, and values from a pair, a slice, to the next."""

STEP, WEIGHING, X, X_STRIDE, Y, Y_STRIDE, SITE, PHASE = range(8)
"""Words of a call: addresses of the step's words and of the weights', the site's tensors and index,
which phase."""

BY_GROUPS, BY_PAIRS, BY_PHASES, BY_TOKENS = range(4)
"""Work of a thread: whole groups; its part of each group's pairs; groups to shrink in the first
phase and columns to expand in the second; or its part of the tokens, with all their pairs."""

TOKEN_CUTS = 64
"""Parts of about equally many pairs that `BOUNDS` cuts the tokens into, for `BY_TOKENS`."""

_LINE = 64  # bytes
_FLOAT = 4  # bytes
_COLUMNS_AT_ONCE = 128


@njit(nogil=True, cache=True)
def _ask(address: int, size: int) -> None:
    for line in range(0, size, _LINE):
        prefetch(address + line)


@njit(nogil=True, cache=True)
def _four(base: int, stride: int, tokens: Any, pair: int) -> Any:
    """Return the addresses of the rows of four pairs' tokens."""
    row = _FLOAT * stride
    return (
        base + row * tokens[pair],
        base + row * tokens[pair + 1],
        base + row * tokens[pair + 2],
        base + row * tokens[pair + 3],
    )


@njit(nogil=True, cache=True)
def _any_weight(weights: Any, stride: int, first: int, count: int) -> bool:
    for i in range(count):  # noqa: SIM110 - numba has no any()
        if weights[first + i * stride] != 0.0:
            return True
    return False


@njit(nogil=True, cache=True)
def _weigh(weights: Any, stride: int, first: int, z: int, z_row: int, count: int, n: int) -> None:
    """Compute z[i, :n] *= weight of pair i; 0 where that is 0, even if z is not finite."""
    for i in range(count):
        weight, row = weights[first + i * stride], floats_at(z + z_row * i)
        for j in range(n):
            row[j] = row[j] * weight if weight != 0.0 else types.float32(0.0)


@njit(nogil=True, cache=True)
def _shrink(
    words: Any, step: Any, row_at: int, site: Any, part: Any, first: int, last: int
) -> None:
    """Compute z[pair] = weight A x[token], for one slice's ranks; nothing where no pair has a
    weight."""
    tokens, weighing = ints_at(step[TOKENS]), ints_at(words[WEIGHING])
    weights, stride = floats_at(weighing[WEIGHTS]), weighing[PAIR_STRIDE]
    element, width = step[ELEMENT], site[0]
    row, row_bytes = row_at + element * site[2], element * width
    rank_start, rank = part[2], part[3]
    weight_at = part[5] * weighing[SLICE_STRIDE]
    if not _any_weight(weights, stride, first * stride + weight_at, last - first):
        return
    z_row = _FLOAT * step[SHRUNK_STRIDE]
    for r in range(rank_start, rank_start + rank, ROWS):
        ranks = min(ROWS, rank_start + rank - r)
        a = row + r * row_bytes
        _ask(a + ROWS * row_bytes, ranks * row_bytes)
        for pair in range(first, last, ROWS):
            count = min(ROWS, last - pair)
            weight = pair * stride + weight_at
            if not _any_weight(weights, stride, weight, count):
                continue
            z = step[SHRUNK] + z_row * pair + _FLOAT * r
            if count == ROWS:
                x = _four(words[X], words[X_STRIDE], tokens, pair)
                dots_of_four(a, row_bytes, element, ranks, x, z, z_row, width)
            else:
                for i in range(count):
                    x_at = words[X] + _FLOAT * words[X_STRIDE] * tokens[pair + i]
                    dots_of_one(a, row_bytes, element, ranks, x_at, z + z_row * i, z_row, width)
            _weigh(weights, stride, weight, z, z_row, count, ranks)


@njit(nogil=True, cache=True)
def _expand(
    words: Any,
    step: Any,
    row_at: int,
    part: Any,
    first: int,
    last: int,
    begin: int,
    end: int,
) -> None:
    """Compute y[token] += B z[pair], for columns [begin, end) of one slice."""
    tokens, weighing = ints_at(step[TOKENS]), ints_at(words[WEIGHING])
    weights, stride = floats_at(weighing[WEIGHTS]), weighing[PAIR_STRIDE]
    element = step[ELEMENT]
    column, width, rank_start, rank = part[0], part[1], part[2], part[3]
    weight_at = part[5] * weighing[SLICE_STRIDE]
    if not _any_weight(weights, stride, first * stride + weight_at, last - first):
        return
    base, row = row_at + element * part[4], element * width
    z_row = _FLOAT * step[SHRUNK_STRIDE]
    for start in range(begin, end, _COLUMNS_AT_ONCE):
        columns = min(_COLUMNS_AT_ONCE, end - start)
        b, y_at = base + element * start, words[Y] + _FLOAT * (column + start)
        for r in range(rank):
            _ask(b + r * row + element * _COLUMNS_AT_ONCE, element * columns)
        for pair in range(first, last, ROWS):
            count = min(ROWS, last - pair)
            if not _any_weight(weights, stride, pair * stride + weight_at, count):
                continue
            z = step[SHRUNK] + z_row * pair + _FLOAT * rank_start
            if count == ROWS:
                y = _four(y_at, words[Y_STRIDE], tokens, pair)
                add_to_four(b, row, element, rank, y, z, z_row, columns)
                continue
            for i in range(count):
                y_row = y_at + _FLOAT * words[Y_STRIDE] * tokens[pair + i]
                add_to_one(b, row, element, rank, y_row, z + z_row * i, z_row, columns)


@njit(nogil=True, cache=True)
def _from_token(tokens: Any, first: int, last: int, token: int) -> int:
    """Return the first of pairs [first, last) whose token is ``token`` or a later one."""
    while first < last:
        middle = (first + last) // 2
        if tokens[middle] < token:
            first = middle + 1
        else:
            last = middle
    return first


@njit(nogil=True, cache=True)
def _pairs_of(step: Any, group: Any, thread: int, threads: int) -> Any:
    """Return a thread's pairs of a group, as [first, last)."""
    first, last = group[2], group[3]
    if step[SPLIT] == BY_PAIRS:
        count = last - first
        return first + count * thread // threads, first + count * (thread + 1) // threads
    if step[SPLIT] == BY_TOKENS:
        tokens, bounds = ints_at(step[TOKENS]), ints_at(step[BOUNDS])
        first = _from_token(tokens, first, last, bounds[TOKEN_CUTS * thread // threads])
        last = _from_token(tokens, first, last, bounds[TOKEN_CUTS * (thread + 1) // threads])
    return first, last


@njit(nogil=True, cache=True)
def _work(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    step = ints_at(words[STEP])
    split, phase = step[SPLIT], words[PHASE]
    threads = min(threads, step[MOST_THREADS])
    if thread >= threads or (phase == 1 and split != BY_PHASES):
        return
    expand_only = split == BY_PHASES and phase == 1
    for g in range(step[GROUP_COUNT]):
        others = g % threads != thread
        if others and (split == BY_GROUPS or (split == BY_PHASES and not expand_only)):
            continue
        group = ints_at(step[GROUPS] + g * GROUP_WORDS * 8)
        site = ints_at(group[1] + words[SITE] * SITE_WORDS * 8)
        slices = group[1] + 8 * site[4]
        first, last = _pairs_of(step, group, thread, threads)
        if not expand_only:
            for s in range(site[3]):
                part = ints_at(slices + s * SLICE_WORDS * 8)
                _shrink(words, step, group[0], site, part, first, last)
        if split == BY_PHASES and not expand_only:
            continue
        for s in range(site[3]):
            part = ints_at(slices + s * SLICE_WORDS * 8)
            begin, end = 0, part[1]
            if expand_only:
                begin = part[1] * thread // threads // 16 * 16
                if thread + 1 < threads:
                    end = part[1] * (thread + 1) // threads // 16 * 16
            _expand(words, step, group[0], part, first, last, begin, end)


@cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
def add_groups(address: int, thread: int, threads: int) -> None:
    """Compute one thread's part of a call; ``address`` is that of its words, `STEP` to `PHASE`."""
    _work(address, thread, threads)
