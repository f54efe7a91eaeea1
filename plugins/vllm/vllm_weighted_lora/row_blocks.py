"""Plans which rows meet which slots, in blocks without gaps.

The rows of a step come in runs, one run per request. A block is a range of rows and a range of
slots: one product of matrices for all of them, without copies. A row that meets a slot that is not
its own has the weight 0 there. Long runs get blocks of their own, short ones share. Nothing here
imports vLLM or torch.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

LONG = 8
"""Rows from which a run is worth its own products: a product costs about as much as 30 rows of a
small adapter."""


class Block(NamedTuple):
    """Rows and slots, each from the first to the one after the last."""

    first_row: int
    end_row: int
    first_slot: int
    end_slot: int


def plan_blocks(runs: Iterable[tuple[int, Sequence[int]]]) -> list[Block]:
    """Cover every row's slots by blocks; no row meets a slot twice.

    Args:
        runs: number of rows and their slots, in the order of rows.
    """
    groups: list[tuple[int, int, frozenset[int]]] = []
    row = 0
    open_group = False
    for length, slots in runs:
        own = frozenset(slots)
        if groups and groups[-1][1] == row and groups[-1][2] == own:
            groups[-1] = (groups[-1][0], row + length, own)
            open_group = open_group and length < LONG
        elif length >= LONG:
            groups.append((row, row + length, own))
            open_group = False
        elif open_group:
            first, _, others = groups[-1]
            groups[-1] = (first, row + length, others | own)
        else:
            groups.append((row, row + length, own))
            open_group = True
        row += length
    return [
        Block(first, end, first_slot, end_slot)
        for first, end, slots in groups
        for first_slot, end_slot in _ranges(slots)
    ]


def _ranges(slots: frozenset[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot:
            found[-1] = (found[-1][0], slot + 1)
        else:
            found.append((slot, slot + 1))
    return found
