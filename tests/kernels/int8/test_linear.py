"""int8 products: near the reference, and each row by itself."""

import pytest
import torch

from kernels.int8.amx import AmxLinear, amx_available
from kernels.int8.digits import LEVELS, quantise_weight, reference_linear, split_rows
from kernels.int8.onednn import OneDnnLinear, onednn_available
from kernels.tolerances import assert_close

LINEARS = [
    pytest.param(
        AmxLinear, marks=pytest.mark.skipif(not amx_available(), reason="this CPU has no AMX")
    ),
    pytest.param(
        OneDnnLinear, marks=pytest.mark.skipif(not onednn_available(), reason="torch has no oneDNN")
    ),
]
SHAPES = [(64, 32), (1, 1), (3, 5), (48, 100), (100, 33), (576, 96), (130, 64)]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return reference_linear(x, quantise_weight(weight), bias).float()


@pytest.mark.parametrize("linear", LINEARS)
@pytest.mark.parametrize(
    ("rows", "dtype"),
    [(rows, torch.float32) for rows in (1, 7, 8, 9, 16, 40)]
    + [(5, torch.bfloat16), (5, torch.float16)],
)
def test_it_is_the_product_with_the_quantised_weight(linear, rows: int, dtype: torch.dtype):
    for salt, (inputs, outputs) in enumerate(SHAPES):
        weight = random(outputs, inputs, seed=salt)
        bias = random(outputs, seed=salt + 50) if salt % 2 else None
        x = random(rows, inputs, seed=salt + 100).to(dtype)
        y = linear(weight, bias)(x)
        assert y.dtype is dtype
        assert_close("int8", y, reference(x, weight, bias))


@pytest.mark.parametrize("linear", LINEARS)
def test_a_row_is_the_same_in_any_batch(linear):
    product = linear(random(70, 200), random(70, seed=1))
    x = random(37, 200, seed=2) * torch.logspace(-6, 6, 37)[:, None]
    alone = torch.cat([product(row[None]) for row in x])
    for rows in (list(range(37)), list(range(36, -1, -1)), [5] * 9, [3, 30, 3, 17, 4, 1, 1, 8, 2]):
        assert torch.equal(product(x[rows]), alone[rows])


@pytest.mark.parametrize("linear", LINEARS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(linear, threads: int):
    product = linear(random(200, 96), None)
    x = random(20, 96, seed=2)
    expected = product(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(product(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("linear", LINEARS)
def test_bad_rows_keep_to_themselves(linear):
    weight, bias = random(50, 96), random(50, seed=1)
    product = linear(weight, bias)
    x = random(12, 96, seed=2)
    expected = product(x)
    x[1, 7], x[4, 0], x[9] = float("nan"), float("-inf"), 0.0
    x[10] = 1e-38
    y = product(x)
    assert y[1].isnan().all()
    assert y[4].isnan().all()
    assert torch.equal(y[9], bias)
    assert torch.equal(y[10], bias)
    rest = [row for row in range(12) if row not in (1, 4, 9, 10)]
    assert torch.equal(y[rest], expected[rest])


@pytest.mark.parametrize("linear", LINEARS)
def test_extremes_stay_in_range(linear):
    """Sums of the largest digits, rows of one large value, weights of zero."""
    inputs = 4096
    weight = torch.full((40, inputs), 3.0)
    weight[::2] *= -1
    weight[5] = 0.0
    x = torch.full((9, inputs), 1e30)
    x[3, 1:] = 1.0
    y = linear(weight, None)(x)
    assert_close("int8", y / 1e34, reference(x, weight, None) / 1e34)
    assert bool((y[:, 5] == 0).all())


@pytest.mark.parametrize("linear", LINEARS)
def test_shapes_and_strides(linear):
    weight = random(33, 64)
    product = linear(weight, None)
    x = random(2, 3, 64, seed=1)
    assert torch.equal(product(x), product(x.view(6, 64)).view(2, 3, 33))
    wide = random(5, 128, seed=2)
    narrow = wide[:, 32:96]
    assert torch.equal(product(narrow), product(narrow.contiguous()))
    turned = random(64, 4, seed=3).T
    assert torch.equal(product(turned), product(turned.contiguous()))
    assert product(x[:0]).shape == (0, 3, 33)


@pytest.mark.parametrize("linear", LINEARS)
def test_weights_are_held_as_bytes(linear):
    weight = random(512, 512)
    assert linear(weight, None).nbytes < 1.1 * weight.numel()


@pytest.mark.parametrize("linear", LINEARS)
def test_a_weight_that_is_not_finite_is_refused(linear):
    weight = random(8, 8)
    weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        linear(weight, None)


@pytest.mark.skipif(not (amx_available() and onednn_available()), reason="one of them is missing")
def test_both_ways_agree():
    weight, x = random(90, 576), random(19, 576, seed=1)
    torch.testing.assert_close(
        AmxLinear(weight, None)(x), OneDnnLinear(weight, None)(x), rtol=1e-6, atol=1e-6
    )


def test_digits_write_the_rounded_value():
    x = random(40, 30) * torch.logspace(-20, 20, 40)[:, None]
    scales, (high, low) = split_rows(x)
    values = high.int() * 256 + low.int()
    assert int(values.abs().amax()) == LEVELS
    error = (values * scales.double() - x).abs()
    assert bool((error <= 0.51 * scales.double()).all())


def test_weights_round_to_the_nearest_step():
    weight = random(6, 50) * torch.logspace(-9, 1, 50)
    weight[2] = 0.0
    quantised = quantise_weight(weight)
    steps, scales = quantised.steps, quantised.scales
    assert scales[2] == 0.0
    assert not steps[2].any()
    assert bool((steps.abs().amax(1)[scales > 0] == 127).all())
    assert bool(((quantised.columns > 0) & (quantised.columns <= 1)).all())
    error = (steps * scales[:, None] * quantised.columns - weight).abs()
    assert bool((error <= 0.5001 * scales[:, None] * quantised.columns).all())


def test_large_columns_do_not_coarsen_the_others():
    weight = random(32, 64)
    weight[:, 9] *= 400.0
    quantised = quantise_weight(weight)
    full = quantised.steps * quantised.scales[:, None] * quantised.columns
    rest = torch.arange(64) != 9
    assert float((full - weight)[:, rest].square().mean().sqrt()) < 0.1
    plain = weight.abs().amax(1, keepdim=True) / 127
    assert float(((weight / plain).round() * plain - weight)[:, rest].square().mean().sqrt()) > 0.5


def test_a_weight_of_zeros():
    quantised = quantise_weight(torch.zeros(3, 4))
    assert not quantised.steps.any()
    assert torch.equal(quantised.columns, torch.ones(4))
