"""The products of matrices, compared with sums written out; needs torch, and no vLLM."""

import math

import pytest

torch = pytest.importorskip("torch")

from vllm_weighted_lora.weighted_sum import (  # noqa: E402 - after the check that torch is there
    SlotWeights,
    add_weighted,
    add_weighted_slices,
    slots_innermost,
)

ROWS, SLOTS, RANK, INPUTS, OUTPUTS = 7, 4, 3, 10, 12


def stacks(seed: int, outputs: int = OUTPUTS) -> tuple["torch.Tensor", "torch.Tensor"]:
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(SLOTS, 1, RANK, INPUTS, generator=draw)
    return a, torch.randn(SLOTS, 1, outputs, RANK, generator=draw)


def weights_of_rows() -> "torch.Tensor":
    weights = torch.randn(ROWS, SLOTS, generator=torch.Generator().manual_seed(9))
    weights[0] = 0
    weights[1, :3] = 0
    return weights


def by_slot(weights: "torch.Tensor") -> SlotWeights:
    return SlotWeights(weights.unsqueeze(2), (weights == 0).unsqueeze(2))


def written_out(x, a, b, weights):  # type: ignore[no-untyped-def]
    result = torch.zeros(x.size(0), b.size(2))
    for row in range(x.size(0)):
        for slot in range(SLOTS):
            result[row] += weights[row, slot] * (b[slot, 0] @ (a[slot, 0] @ x[row]))
    return result


@pytest.mark.parametrize("laid_out", [False, True])
def test_it_is_the_sum_of_each_rows_adapters(laid_out: bool) -> None:
    a, b = stacks(1)
    x = torch.randn(ROWS, INPUTS)
    y = torch.randn(ROWS, OUTPUTS)
    wanted = y + written_out(x, a, b, weights_of_rows())
    add_weighted(y, x, a, slots_innermost(b) if laid_out else b, by_slot(weights_of_rows()))
    torch.testing.assert_close(y, wanted, atol=1e-4, rtol=1e-4)


def test_stacks_laid_out_anew_are_equal_and_need_no_copy() -> None:
    _, b = stacks(1)
    moved = slots_innermost(b)
    assert torch.equal(moved, b)
    assert moved.shape == b.shape
    flat = moved[:, 0].permute(1, 0, 2)
    assert flat.reshape(OUTPUTS, -1).data_ptr() == moved.data_ptr()


def test_slices_lie_side_by_side() -> None:
    first, second = stacks(1), stacks(2, outputs=5)
    x = torch.randn(ROWS, INPUTS)
    y = torch.zeros(ROWS, OUTPUTS + 5)
    weights = weights_of_rows()
    add_weighted_slices(
        y, x, [first[0], second[0]], [first[1], second[1]], by_slot(weights), 0.5, [OUTPUTS, 5]
    )
    wanted = torch.cat([written_out(x, *first, weights), written_out(x, *second, weights)], dim=1)
    torch.testing.assert_close(y, wanted * 0.5, atol=1e-4, rtol=1e-4)


def test_a_row_never_sees_what_another_rows_adapter_does() -> None:
    a, b = stacks(1)
    a[3] = 3e38  # overflows for any row
    x = torch.randn(ROWS, INPUTS)
    weights = torch.zeros(ROWS, SLOTS)
    weights[:, 0] = 1.0
    weights[5, 3] = 1.0
    y = torch.zeros(ROWS, OUTPUTS)
    add_weighted(y, x, a, b, by_slot(weights))
    assert torch.isfinite(y[torch.arange(ROWS) != 5]).all()
    assert not torch.isfinite(y[5]).all()


def test_outputs_of_another_type_and_padding() -> None:
    a, b = stacks(1)
    x = torch.randn(ROWS, INPUTS, dtype=torch.float64)
    y = torch.zeros(ROWS, OUTPUTS - 2, dtype=torch.float64)
    weights = weights_of_rows()
    add_weighted(y, x, a, b, by_slot(weights))
    wanted = written_out(x.float(), a, b, weights)[:, : OUTPUTS - 2]
    torch.testing.assert_close(y, wanted.double(), atol=1e-4, rtol=1e-4)
    assert not math.isclose(float(y[1].abs().sum()), 0.0)
