"""Blocks cover what rows need, once; needs no vLLM."""

import random

import pytest
from vllm_weighted_lora.row_blocks import LONG, Block, plan_blocks
from vllm_weighted_lora.row_weights import RowWeights


def test_short_runs_share_a_block() -> None:
    assert plan_blocks([(1, [0]), (1, []), (1, [1])]) == [Block(0, 3, 0, 2)]


def test_long_runs_meet_only_their_slots() -> None:
    assert plan_blocks([(1, [0]), (LONG, [3]), (1, [1])]) == [
        Block(0, 1, 0, 1),
        Block(1, 1 + LONG, 3, 4),
        Block(1 + LONG, 2 + LONG, 1, 2),
    ]


def test_equal_runs_are_one() -> None:
    assert plan_blocks([(LONG, [2, 3]), (1, [3, 2])]) == [Block(0, LONG + 1, 2, 4)]


def test_gaps_between_slots_are_left_out() -> None:
    assert plan_blocks([(2, [0, 1, 4])]) == [Block(0, 2, 0, 2), Block(0, 2, 4, 5)]


def test_base_rows_need_no_block() -> None:
    assert plan_blocks([(LONG, []), (1, [])]) == []
    assert plan_blocks([]) == []


@pytest.mark.parametrize("seed", range(50))
def test_each_row_meets_each_of_its_slots_once(seed: int) -> None:
    draw = random.Random(seed)
    runs = [
        (draw.choice([1, 1, 2, 7, 8, 30]), draw.sample(range(6), draw.randint(0, 4)))
        for _ in range(draw.randint(0, 12))
    ]
    blocks = plan_blocks(runs)
    row = 0
    for length, slots in runs:
        for here in range(row, row + length):
            met = [
                slot
                for first, end, low, high in blocks
                if first <= here < end
                for slot in range(low, high)
            ]
            assert len(met) == len(set(met))
            assert set(slots) <= set(met)
        row += length


def test_rows_have_the_weights_of_their_numbers() -> None:
    rows = RowWeights()
    rows.mixtures = {90: ((7, 0.5), (8, -2.0))}
    slots = {7: 1, 8: 0, 3: 2}
    assert rows.runs([90, 90, 0, 3, 90], slots) == [
        (2, {1: 0.5, 0: -2.0}),
        (1, {}),
        (1, {2: 1.0}),
        (1, {1: 0.5, 0: -2.0}),
    ]
    assert rows.without_mixtures([90, 3, 0]) == (0, 3, 0)
