"""The wrapper for GPUs, run on a CPU: all of it but the device, graphs and Triton kernels."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: the wrapper for GPUs is not tried")

import torch
from engines import compare, start
from small_model import SmallModel
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
from vllm.lora.punica_wrapper import punica_gpu
from vllm.platforms import current_platform
from vllm_weighted_lora import mixture_request
from vllm_weighted_lora.cuda_wrapper import add_mixtures
from vllm_weighted_lora.plugin import register
from vllm_weighted_lora.weighted_sum import SlotWeights, add_weighted_slices


def operands() -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(6, 16, generator=draw)
    a = [torch.randn(3, 1, 2, 16, generator=draw) for _ in range(2)]
    b = [torch.randn(3, 1, width, 2, generator=draw) for width in (8, 4)]
    return torch.zeros(6, 12), x, a, b, torch.randn(10, 3, 1, generator=draw)


def test_the_operator_is_traced_and_does_nothing_without_adapters() -> None:
    y, x, a, b, weights = operands()
    unused = weights > 1

    def layer(y: Any, x: Any, flag: Any) -> Any:
        out = y * 1.0
        add_mixtures(out, x, a, b, weights, unused, flag, 2.0, [8, 4])
        return out

    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    wanted = torch.zeros(6, 12)
    add_weighted_slices(wanted, x, a, b, SlotWeights(weights[:6], unused[:6]), 2.0, [8, 4])
    torch.testing.assert_close(traced(y, x, torch.tensor([True])), wanted)
    assert torch.equal(traced(y, x, torch.tensor([False])), y)


@pytest.mark.slow
def test_it_agrees_with_merged_weights(small: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    register()  # before the wrapper is changed
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr(punica_gpu, "LoRAKernelMeta", LoRAKernelMeta, raising=False)
    # vLLM's own kernels still serve embeddings, which no adapter reaches.
    monkeypatch.setattr(punica_gpu, "lora_expand", lambda *_, **__: None, raising=False)
    monkeypatch.setattr(
        type(current_platform),
        "get_punica_wrapper",
        classmethod(lambda _: "vllm_weighted_lora.cuda_wrapper.MixtureWrapperGPU"),
    )
    llm = start(small, max_loras=4)
    for name in small.names[:4]:
        llm.collective_rpc("load_adapter", args=(name, small.folder(name)))
    mixtures: list[list[tuple[str, float]]] = [
        [],
        [("rank2", 1.0)],
        [("rank4", -0.7), ("rank16", 1.5)],
        [("rank2", 0.2), ("rank4", 0.4), ("rank8", -1.0), ("rank16", 0.8)],
        [],
    ]
    compare(llm, small, mixtures, [mixture_request(m) if m else None for m in mixtures])
