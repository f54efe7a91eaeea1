import pytest
import torch

from kernels.tolerances import TOLERANCES, assert_close, tolerance


def test_every_operator_states_every_dtype():
    dtypes = {torch.float32, torch.bfloat16, torch.float16}
    for op in {op for op, _ in TOLERANCES}:
        assert {dtype for name, dtype in TOLERANCES if name == op} == dtypes


def test_an_unstated_dtype_has_no_tolerance():
    with pytest.raises(KeyError):
        tolerance("lora", torch.float64)


def test_a_small_error_in_one_element_is_found():
    want = torch.ones(10, 10)
    got = want.clone()
    got[3, 3] += 1e-3
    with pytest.raises(AssertionError):
        assert_close("lora", got, want)


def test_nan_is_never_close():
    with pytest.raises(AssertionError):
        assert_close("lora", torch.tensor([float("nan")]), torch.tensor([0.0]))


def test_empty_memory_is_poisoned_here():
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.zeros(3)).isnan().all()
    assert torch.zeros(3).new_empty(3).isnan().all()
