"""Norm, gate and rotary embedding against plain formulas."""

import pytest
import torch

from kernels.attention.attention_batch import PagedBatch
from kernels.attention.cache import LayerKVCache
from kernels.elementwise.ops import native_rows, rms_norm, rotate_and_store, silu_gate
from kernels.tolerances import assert_close


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    """Both ways; a machine without the first has the second."""
    if request.param == "torch":
        monkeypatch.setattr("kernels.elementwise.ops.native_rows", lambda _: False)
    return request.param


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("width", [1, 17, 576])
def test_rms_norm(rows, width):
    x, weight, eps = torch.randn(rows, width) * 30, torch.randn(width), torch.tensor([1e-5])
    want = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    assert_close("elementwise", rms_norm(x, weight, eps), want)


def test_rms_norm_of_heads_inside_wider_rows():
    packed, weight, eps = torch.randn(4, 9, 16), torch.randn(16), torch.tensor([1e-5])
    heads = packed.narrow(1, 2, 3)
    want = heads * (heads.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    got = rms_norm(heads, weight, eps)
    assert got.shape == heads.shape
    assert_close("elementwise", got, want)


def test_rms_norm_of_every_second_column():
    wide, weight, eps = torch.randn(3, 32), torch.randn(16), torch.tensor([1e-5])
    assert not native_rows(wide[:, ::2])
    rows = wide[:, :16]
    want = rms_norm(rows.contiguous(), weight, eps)
    assert torch.equal(rms_norm(rows, weight, eps), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 33), (300, 256)])
def test_silu_gate(path, rows, width, dtype):
    gate_up = (torch.randn(rows, 2 * width) * 20).to(dtype)
    gate, up = gate_up.float().chunk(2, dim=-1)
    want = gate / (1 + torch.exp(-gate)) * up
    assert_close("elementwise", silu_gate(gate_up.clone()), want)


@pytest.mark.parametrize("value", [-1000.0, -88.0, 0.0, 88.0, 1000.0])
def test_silu_gate_far_out(path, value):
    got = silu_gate(torch.tensor([[value, 1.0]]))
    assert_close("elementwise", got, torch.tensor([[max(value, 0.0)]]))


def test_what_is_not_finite_stays_in_its_row(path):
    gate_up = torch.randn(3, 40)
    want = silu_gate(gate_up.clone())
    gate_up[1, 3] = float("nan")
    gate_up[1, 5] = float("-inf")
    got = silu_gate(gate_up)
    assert torch.isnan(got[1, 3])
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[2], want[2])
    norm = rms_norm(gate_up, torch.ones(40), torch.tensor([1e-5]))
    assert torch.isnan(norm[1]).all()
    assert torch.isfinite(norm[0]).all()


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 8), (9, 3, 64), (1, 1, 6)])
def test_rotate_and_store(path, heads, kv_heads, dim):
    tables, contexts, counts = [[3, 1], [0, 2]], [3, 0], [3, 6]
    cache = LayerKVCache.allocate(5, 4, kv_heads, dim)
    batch = PagedBatch.build(tables, contexts, counts, block_size=4)
    cache.kv[3, :3] = 7.0
    qkv = torch.randn(9, heads + 2 * kv_heads, dim)
    cos, sin = torch.randn(9, dim), torch.randn(9, dim)
    before = qkv.clone()
    rotate_and_store(qkv, cos, sin, heads, cache, batch)
    rotated = before[:, : heads + kv_heads]
    low, high = rotated.chunk(2, dim=-1)
    want = rotated * cos[:, None] + torch.cat((-high, low), dim=-1) * sin[:, None]
    assert_close("elementwise", qkv[:, : heads + kv_heads], want)
    assert torch.equal(qkv[:, heads + kv_heads :], before[:, heads + kv_heads :])
    places = [(3, 3), (1, 0), (1, 1), (0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (2, 1)]
    for token, (block, offset) in enumerate(places):
        assert torch.equal(cache.kv[block, offset], qkv[token, heads:])
    assert (cache.kv[3, :3] == 7.0).all()
    assert (cache.kv[4] == 0.0).all()
