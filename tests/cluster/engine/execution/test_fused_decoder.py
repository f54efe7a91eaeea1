"""The fused decoder: used where it agrees with the model, and only there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.base_model.checks import decoder_layers
from cluster.config import EngineConfig
from cluster.engine.execution import model_runner
from cluster.engine.execution.decoder_parts import FUSED_MODELS
from cluster.engine.execution.fused_decoder import FusedDecoder, fuse_decoder
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.model.model_loader import load_model
from kernels.attention.attention_batch import PagedBatch
from kernels.lora.bank import AdapterBank
from tests.conftest import TINY_FAMILIES

CONFIG = EngineConfig(device="cpu", block_size=4, kv_blocks=32, max_model_len=64)


def make_runner(folder: Path, **config: object) -> ModelRunner:
    options = EngineConfig(**{**CONFIG.model_dump(), **config})
    loaded = load_model(folder, options)
    bank = AdapterBank(loaded.sites, 1, 8, dtype=loaded.dtype, device=loaded.device)
    return ModelRunner(loaded, options, bank)


def logits(runner: ModelRunner) -> list[torch.Tensor]:
    """Compute three steps: two prefills, then a decode of the first next to the second's rest."""
    answers = []
    for tables, contexts, counts in (
        ([[0, 1, 2]], [0], [9]),
        ([[5, 3]], [0], [5]),
        ([[0, 1, 2], [5, 3]], [9, 5], [1, 3]),
    ):
        batch = PagedBatch.build(tables, contexts, counts, block_size=4)
        positions = [c + i for c, n in zip(contexts, counts, strict=True) for i in range(n)]
        tokens = [(7 * position + 3) % 97 for position in positions]
        ends = torch.tensor(counts).cumsum(0).sub(1).tolist()
        found = runner._forward(tokens, positions, ends, batch, None)
        assert found is not None
        answers.append(found)
    return answers


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_it_agrees_with_the_modules(tiny_model: Callable[..., Path], family: str, window):
    options = {} if family != "mistral" else {"sliding_window": window}
    runner = make_runner(tiny_model(family, **options))
    assert isinstance(runner._fused, FusedDecoder)
    fused = logits(runner)
    runner._fused = None
    for got, want in zip(fused, logits(runner), strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_is_used_in_half_precision(tiny_model: Callable[..., Path], dtype: str):
    assert make_runner(tiny_model("llama"), dtype=dtype)._fused is not None


def test_a_model_that_it_does_not_reproduce_keeps_its_modules(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, logs: list
):
    def wrong(*args: object) -> FusedDecoder | None:
        decoder = fuse_decoder(*args)  # type: ignore[arg-type]
        assert decoder is not None
        decoder._layers[1]._scale *= 1.5
        return decoder

    monkeypatch.setattr(model_runner, "fuse_decoder", wrong)
    runner = make_runner(tiny_model("llama"))
    assert runner._fused is None
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert all(bool(torch.isfinite(answer).all()) for answer in logits(runner))


@pytest.mark.parametrize("change", ["class", "norm", "child"])
def test_an_unknown_structure_is_left_alone(tiny_model: Callable[..., Path], change: str):
    loaded = load_model(tiny_model("llama"), CONFIG)
    model, layers = loaded.model, decoder_layers(loaded.model)
    assert fuse_decoder(model, layers, loaded.context) is not None
    if change == "class":
        model.__class__ = type("OtherForCausalLM", (type(model),), {})
    elif change == "norm":
        layers[1].input_layernorm = nn.LayerNorm(64)
    else:
        layers[1].extra = nn.Identity()
    assert fuse_decoder(model, layers, loaded.context) is None


def test_every_family_of_the_tests_is_known():
    assert {TINY_FAMILIES[f][0].replace("Config", "ForCausalLM") for f in TINY_FAMILIES} == set(
        FUSED_MODELS
    )
