"""Checks what a `MixingGate` is called with, at either resolution.

It is compared with the inputs of the same linears in transformers' own model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
import transformers

from cluster.domain.ids import Slot
from cluster.domain.request import SamplingParams
from cluster.engine.mixing import LAYER_MODULES, Mixing
from tests.support.engines import RunningEngine, make_request

LAYERS = 2
PROMPT = (5, 17, 3, 42, 8)
OTHER = (9, 9, 31)
ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0)
MIXTURE = ((Slot(0), 1.0),)


@dataclass
class Call:
    layer: int
    site: int | None
    x: torch.Tensor


@dataclass
class RecordingGate:
    """Weighs its one adapter with 0, so that the model computes as the base alone does."""

    resolution: Literal["layer", "site"]
    width: int
    calls: list[Call] = field(default_factory=list)
    num_adapters: int = 1
    num_layers: int = LAYERS

    @property
    def hidden_size(self) -> int:
        return self.width

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(Call(layer, site, x.clone()))
        return torch.zeros(x.shape[0], 1)

    def to(self, device: torch.device) -> "RecordingGate":
        return self


def record(folder: Path, gate: RecordingGate, modules: tuple[str, ...] = LAYER_MODULES) -> None:
    """Run one step: a prompt that the gate weighs, next to one that has nothing to do with it."""
    engine = RunningEngine(folder, prefix_cache=False, device="cpu")
    generator = torch.Generator().manual_seed(0)
    engine.load(
        0,
        {
            path: (
                torch.randn(2, site.in_features, generator=generator),
                torch.randn(width, 2, generator=generator),
                1.0,
            )
            for site in engine.built.bank.sites
            for path, width in site.out_slices
            if path.endswith(modules)
        },
    )
    engine.mixing.add_part("gate", gate=gate)
    try:
        engine.submit(make_request("other", OTHER, ONE_TOKEN))
        engine.submit(make_request("gated", PROMPT, ONE_TOKEN), MIXTURE, mixing=Mixing(gate="gate"))
        for answer in engine.wait("other", "gated"):
            assert answer.error_code is None, answer
    finally:
        engine.stop()


def true_inputs(folder: Path) -> tuple[dict[tuple[int, int], torch.Tensor], list[torch.Tensor]]:
    """Return each linear's input by (layer, index in LAYER_MODULES), and each layer's input."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    linears: dict[tuple[int, int], torch.Tensor] = {}
    entering: list[torch.Tensor] = []
    for layer, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(
            lambda _, args, kwargs: entering.append(
                (args[0] if args else kwargs["hidden_states"])[0]
            ),
            with_kwargs=True,
        )
        for name, module in block.named_modules():
            if (short := name.rpartition(".")[2]) in LAYER_MODULES:
                place = (layer, LAYER_MODULES.index(short))
                module.register_forward_pre_hook(
                    lambda _, args, place=place: linears.__setitem__(place, args[0][0])
                )
    with torch.inference_mode():
        model(torch.tensor([PROMPT]))
    return linears, entering


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_by_site_every_linear_is_asked_for_with_its_own_input(
    tiny_model: Callable[..., Path], family: str
) -> None:
    folder = tiny_model(family)
    gate = RecordingGate("site", 64)
    record(folder, gate)
    linears, _ = true_inputs(folder)
    assert [(call.layer, call.site) for call in gate.calls] == [
        (layer, site) for layer in range(LAYERS) for site in range(len(LAYER_MODULES))
    ]
    assert len({call.x.shape[1] for call in gate.calls}) > 1, "a linear reads another width"
    for call in gate.calls:
        assert call.site is not None
        torch.testing.assert_close(
            call.x, linears[call.layer, call.site], rtol=1e-4, atol=1e-4, msg=str(call.site)
        )


def test_by_layer_a_call_serves_all_linears_of_a_layer(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    gate = RecordingGate("layer", 64)
    record(folder, gate)
    _, entering = true_inputs(folder)
    assert [(call.layer, call.site) for call in gate.calls] == [(0, None), (1, None)]
    for call, truth in zip(gate.calls, entering, strict=True):
        torch.testing.assert_close(call.x, truth, rtol=1e-4, atol=1e-4)


def test_linears_that_the_adapter_leaves_out_are_asked_for_too(
    tiny_model: Callable[..., Path],
) -> None:
    gate = RecordingGate("site", 64)
    record(tiny_model("llama"), gate, ("v_proj",))
    assert {call.site for call in gate.calls} == set(range(len(LAYER_MODULES)))
