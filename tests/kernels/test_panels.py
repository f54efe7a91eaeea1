"""The panel product against torch's own."""

import pytest
import torch

from kernels.linear.panels import FloatPanels, float_panels_available
from kernels.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    not float_panels_available(), reason="needs AVX-512 and torch with GNU OpenMP"
)


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"threads{n}")
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("rows", [1, 2, 7, 15, 16, 17, 31, 33, 100])
@pytest.mark.parametrize(
    ("in_features", "out_features"), [(1, 1), (3, 16), (64, 17), (63, 100), (66, 15), (5, 300)]
)
def test_equals_a_linear(rows, in_features, out_features):
    weight, bias = torch.randn(out_features, in_features), torch.randn(out_features)
    x = torch.randn(rows, in_features)
    assert_close("lora", FloatPanels(weight, bias)(x), torch.nn.functional.linear(x, weight, bias))
    assert_close("lora", FloatPanels(weight, None)(x), x @ weight.t())


@pytest.mark.slow
def test_a_row_is_the_same_in_any_batch():
    product = FloatPanels(torch.randn(75, 576), None)
    x = torch.randn(70, 576)
    whole = product(x)
    for size in (1, 2, 5, 11, 16, 17, 37):
        for start in range(0, 70, size):
            assert torch.equal(product(x[start : start + size]), whole[start : start + size])


def test_a_row_that_is_not_finite_spoils_itself_alone():
    product = FloatPanels(torch.randn(40, 48), None)
    x = torch.randn(5, 48)
    want = product(x)
    x[2, 7] = float("nan")
    got = product(x)
    assert torch.isnan(got[2]).all()
    others = [0, 1, 3, 4]
    assert torch.equal(got[others], want[others])


def test_shapes():
    product = FloatPanels(torch.randn(40, 48), None)
    assert product(torch.randn(0, 48)).shape == (0, 40)
    x = torch.randn(2, 3, 48)
    assert_close("lora", product(x), product(x.flatten(0, 1)).view(2, 3, 40))
    strided = torch.randn(5, 96)[:, ::2]
    assert torch.equal(product(strided), product(strided.contiguous()))


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 47), torch.zeros(2, 48, dtype=torch.float64)], ids=["width", "dtype"]
)
def test_another_input_is_refused(x):
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 48\] torch.float32"):
        FloatPanels(torch.randn(40, 48), None)(x)


def test_the_weight_may_go():
    weight = torch.randn(40, 48)
    want = torch.ones(1, 48) @ weight.t()
    product = FloatPanels(weight, None)
    weight.zero_()
    assert_close("lora", product(torch.ones(1, 48)), want)
    assert product.nbytes == 48 * 48 * 4 + 48 * 4
