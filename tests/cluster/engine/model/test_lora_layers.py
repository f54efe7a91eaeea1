"""Replaced projections and norms compute what the original modules computed."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from cluster.engine.model.lora_layers import GroupMember, SingleProjection, replace_projections
from cluster.engine.model.norms import FusedRMSNorm, replace_norms
from cluster.engine.model.products import make_product
from cluster.engine.model.step_context import StepContext
from kernels.tolerances import assert_close
from tests.conftest import TINY_FAMILIES


def load(folder, dtype=torch.float32) -> nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_logits_are_as_before(tiny_model, family: str):
    model = load(tiny_model(family))
    tokens = torch.arange(2 * 9).view(2, 9) * 5 % 97
    with torch.inference_mode():
        expected = model(tokens).logits
        sites = replace_projections(model, model.model.layers, StepContext(256))
        norms = replace_norms(model)
        assert_close("attention", model(tokens).logits, expected)
    assert len(sites) == 4 * 2
    per_layer = 4 if family == "qwen3" else 2
    assert norms == 2 * per_layer + 1
    assert not [m for layer in model.model.layers for m in layer.modules() if type(m) is nn.Linear]


def test_sites_carry_peft_paths_and_widths(tiny_model):
    model = load(tiny_model("llama"))
    sites = replace_projections(model, model.model.layers, StepContext(256))
    at = "model.layers.1.self_attn"
    assert [site.name for site in sites[4:]] == [
        f"{at}.q_proj+k_proj+v_proj",
        f"{at}.o_proj",
        "model.layers.1.mlp.gate_proj+up_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert sites[4].in_features == 64
    assert sites[4].out_slices == (
        (f"{at}.q_proj", 64),
        (f"{at}.k_proj", 32),
        (f"{at}.v_proj", 32),
    )


class Siblings(nn.Module):
    def __init__(self, k_in: int = 8) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 4)
        self.k_proj = nn.Linear(k_in, 6, bias=False)
        self.v_proj = nn.Linear(8, 6)


def replaced(block: nn.Module) -> nn.Module:
    model = SimpleNamespace(named_modules=lambda: [("block", block)])
    replace_projections(model, nn.ModuleList([block]), StepContext(256))
    return block


def test_one_product_serves_all_members_and_each_slice_goes_once():
    block = Siblings()
    weights = [(m.weight, m.bias) for m in (block.q_proj, block.k_proj, block.v_proj)]
    replaced(block)
    members = [block.q_proj, block.k_proj, block.v_proj]
    group = members[0].group
    calls = []
    product = group.product
    group.product = lambda x: calls.append(x) or product(x)

    def check(member: int, x: torch.Tensor) -> None:
        expected = nn.functional.linear(x, *weights[member])
        torch.testing.assert_close(members[member](x), expected)

    x, other = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    with torch.inference_mode():
        for member in range(3):
            check(member, x)
        assert len(calls) == 1
        # The same tensor may have been changed in place since: it is computed again.
        check(0, x.add_(1.0))
        assert len(calls) == 2
        # Members called with different inputs, and out of order.
        check(2, other)
        check(1, x)
        check(0, other)
        assert len(calls) == 5


def test_members_of_different_width_are_not_fused():
    block = Siblings(k_in=5)
    expected = block.k_proj.weight.detach().clone()
    replaced(block)
    assert isinstance(block.q_proj, SingleProjection)
    x = torch.randn(1, 2, 5)
    with torch.inference_mode():
        torch.testing.assert_close(block.k_proj(x), x @ expected.T)


def test_a_lone_linear_of_a_group_stands_alone():
    block = nn.Module()
    block.gate_proj = nn.Linear(3, 2)
    assert isinstance(replaced(block).gate_proj, SingleProjection)
    assert not isinstance(block.gate_proj, GroupMember)


@pytest.mark.parametrize("rows", [1, 2, 16, 33])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_equals_a_linear(rows: int, bias: bool, dtype: torch.dtype):
    linear = nn.Linear(48, 40, bias=bias).to(dtype)
    x = torch.randn(1, rows, 48, dtype=dtype)
    with torch.inference_mode():
        product = make_product(linear.weight, linear.bias)
        assert_close("lora", product(x), linear(x))


class OtherRMSNorm(nn.Module):
    """Looks like an RMSNorm but is not one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / x.abs().mean(-1, keepdim=True)


def test_a_norm_that_computes_something_else_stays():
    model = nn.Sequential(OtherRMSNorm())
    assert replace_norms(model) == 0
    assert isinstance(model[0], OtherRMSNorm)


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_in_half_precision(tiny_model, family: str, dtype: torch.dtype):
    model = load(tiny_model(family), dtype)
    original = model.model.norm
    assert replace_norms(model) == 5
    assert isinstance(model.model.norm, FusedRMSNorm)
    x = torch.randn(7, 64).to(dtype)
    with torch.inference_mode():
        assert_close("lora", model.model.norm(x), original(x).float())
        assert model.model.norm(x).dtype is dtype
