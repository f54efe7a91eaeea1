"""Applies a block of an adapter to one token, or to four at once; compiled by numba.

Arguments are addresses and, for rows that lie at equal distances, the bytes from one to the next.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from kernels.native import blocks
from kernels.native.blocks import HALF, ROWS

_FLOAT = 4  # bytes


@njit(nogil=True, cache=True)
def dots_of_one(
    a: int, row: int, element: int, ranks: int, x: int, z: int, z_row: int, width: int
) -> None:
    """Compute z[:ranks] = A x for up to four rows of A and one token.

    Args:
        a, x, z: addresses.
        row: bytes from a row of A to the next.
        element: bytes of a value of A.
        ranks: rows of A.
        z_row: bytes from a token's results to the next's.
        width: values of x.
    """
    if ranks == ROWS:
        if element == HALF:
            blocks.half_dots_1x4(a, row, x, z, z_row, width)
        else:
            blocks.dots_1x4(a, row, x, z, z_row, width)
        return
    for r in range(ranks):
        if element == HALF:
            blocks.half_dots_1x1(a + r * row, row, x, z + _FLOAT * r, z_row, width)
        else:
            blocks.dots_1x1(a + r * row, row, x, z + _FLOAT * r, z_row, width)


@njit(nogil=True, cache=True)
def dots_of_four(
    a: int, row: int, element: int, ranks: int, x: Any, z: int, z_row: int, width: int
) -> None:
    """Compute as `dots_of_one`, for four tokens whose inputs lie at the addresses ``x``."""
    x0, x1, x2, x3 = x
    if ranks == ROWS:
        if element == HALF:
            blocks.half_dots_4x4(a, row, x0, x1, x2, x3, z, z_row, width)
        else:
            blocks.dots_4x4(a, row, x0, x1, x2, x3, z, z_row, width)
        return
    for r in range(ranks):
        at, to = a + r * row, z + _FLOAT * r
        if element == HALF:
            blocks.half_dots_4x1(at, row, x0, x1, x2, x3, to, z_row, width)
        else:
            blocks.dots_4x1(at, row, x0, x1, x2, x3, to, z_row, width)


@njit(nogil=True, cache=True)
def add_to_one(
    b: int, row: int, element: int, rank: int, y: int, z: int, z_row: int, count: int
) -> None:
    """Compute y[:count] += sum_r z[r] B[r, :count] for one token; arguments as of `dots_of_one`."""
    r = 0
    while r + ROWS <= rank:
        if element == HALF:
            blocks.half_adds_1x4(b + r * row, row, y, z + _FLOAT * r, z_row, count)
        else:
            blocks.adds_1x4(b + r * row, row, y, z + _FLOAT * r, z_row, count)
        r += ROWS
    while r < rank:
        if element == HALF:
            blocks.half_adds_1x1(b + r * row, row, y, z + _FLOAT * r, z_row, count)
        else:
            blocks.adds_1x1(b + r * row, row, y, z + _FLOAT * r, z_row, count)
        r += 1


@njit(nogil=True, cache=True)
def add_to_four(
    b: int, row: int, element: int, rank: int, y: Any, z: int, z_row: int, count: int
) -> None:
    """Compute as `add_to_one`, for four tokens whose results lie at the addresses ``y``."""
    y0, y1, y2, y3 = y
    r = 0
    while r + ROWS <= rank:
        at, factors = b + r * row, z + _FLOAT * r
        if element == HALF:
            blocks.half_adds_4x4(at, row, y0, y1, y2, y3, factors, z_row, count)
        else:
            blocks.adds_4x4(at, row, y0, y1, y2, y3, factors, z_row, count)
        r += ROWS
    while r < rank:
        at, factors = b + r * row, z + _FLOAT * r
        if element == HALF:
            blocks.half_adds_4x1(at, row, y0, y1, y2, y3, factors, z_row, count)
        else:
            blocks.adds_4x1(at, row, y0, y1, y2, y3, factors, z_row, count)
        r += 1
