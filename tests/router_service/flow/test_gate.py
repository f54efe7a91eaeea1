import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router_service.flow.gate import FlowGate, initial_bias


def random_gate(k: int = 3, temperature: float = 1.0, seed: int = 0) -> FlowGate:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, k, 8, generator=generator)
    return FlowGate(weight, torch.randn(2, k, generator=generator), temperature)


def test_the_weights_are_the_papers_formula() -> None:
    weight = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    gate = FlowGate(weight, torch.tensor([[-0.3, 0.8]]), temperature=2.0)
    w = gate.weights(0, None, torch.tensor([[2.0, 3.0]]))
    logits = torch.tensor([2.0 / 2, 6.0 / 2])
    expected = logits.exp() / logits.exp().sum() + torch.tensor([-0.3, 0.8])
    torch.testing.assert_close(w, expected[None])


@pytest.mark.slow
@given(k=st.integers(2, 5), seed=st.integers(0, 99), temperature=st.floats(0.2, 5))
def test_the_weights_sum_to_one_plus_the_biases(k: int, seed: int, temperature: float) -> None:
    gate = random_gate(k, temperature, seed)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed + 1))
    for layer in range(2):
        total = gate.weights(layer, None, x).sum(dim=-1)
        bias = gate.weights(layer, None, torch.zeros(1, 8)).sum() - 1
        torch.testing.assert_close(total, (1 + bias).expand(4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("k", "target"), [(2, 1), (2, 0), (3, 1), (5, 4)])
def test_a_fresh_gate_is_the_target_alone(k: int, target: int) -> None:
    gate = FlowGate(torch.zeros(2, k, 8), initial_bias(k, target).repeat(2, 1), 1.3)
    w = gate.weights(1, None, torch.randn(5, 8) * 100)
    expected = torch.zeros(5, k)
    expected[:, target] = 1
    torch.testing.assert_close(w, expected, atol=1e-6, rtol=0)
    if k == 2 and target == 1:
        assert initial_bias(2, 1).tolist() == [-0.5, 0.5]


def test_without_biases_a_fresh_gate_is_the_average() -> None:
    gate = FlowGate(torch.zeros(1, 2, 8), torch.zeros(1, 2))
    assert gate.weights(0, None, torch.randn(3, 8)).tolist() == [[0.5, 0.5]] * 3


def test_rows_are_independent_and_the_softmax_is_in_fp32() -> None:
    gate = random_gate(4)
    x = torch.randn(6, 8)
    together = gate.weights(1, None, x)
    for row in range(6):
        torch.testing.assert_close(gate.weights(1, None, x[row : row + 1]), together[row : row + 1])
    low = gate.weights(0, None, x.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, gate.weights(0, None, x.bfloat16().float()))


@pytest.mark.parametrize(
    ("weight", "bias"), [((2, 1, 8), (2, 1)), ((2, 3, 8), (3, 2)), ((2, 3), (2, 3))]
)
def test_tensors_that_do_not_fit_are_refused(
    weight: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="gate"):
        FlowGate(torch.zeros(weight), torch.zeros(bias))
