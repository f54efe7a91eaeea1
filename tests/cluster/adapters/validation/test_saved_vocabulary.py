"""Embeddings in an adapter's file are served where they are the base's own, else refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.adapter_checks import validate_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.adapters.validation.saved_vocabulary import _rounded
from cluster.config import AdapterConfig
from cluster.errors import AdapterUnsupported

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LORA = ["model.layers.0.self_attn.q_proj"]


@pytest.fixture
def served(tmp_path, base, write_adapter, make_tensors):
    """Return whether a file with these vocabulary tensors is served next to a base with those."""

    def check(saved, own, *, folder=True):
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        save_file(own, model / "model-00001-of-00001.safetensors")
        tensors = make_tensors(LORA, 4, 0) | {
            f"base_model.model.{n}": t.clone() for n, t in saved.items()
        }
        adapter = write_adapter(tmp_path / "adapter", modules=LORA, tensors=tensors)
        here = BaseShapes(base.digest, base.modules, folder=model if folder else None)
        loaded = load_adapter(adapter, here, AdapterConfig())
        assert list(loaded.tensors) == LORA
        found = validate_adapter(adapter, here, AdapterLimits())
        assert found.manifest.digest == loaded.manifest.digest
        return found.notes

    return check


def values(dtype, rows=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 8, generator=generator).to(dtype)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("own", DTYPES)
@pytest.mark.parametrize("saved", DTYPES)
def test_equal_by_value_or_rounded_to_the_file_s_type(served, own, saved):
    mine = values(own)
    served({EMBED: mine.to(saved)}, {EMBED: mine})
    served({EMBED: mine.to(saved), HEAD: mine.to(saved)}, {EMBED: mine})  # tied
    notes = served({HEAD: -mine.to(saved)}, {EMBED: mine, HEAD: -mine})
    rounds = not torch.equal(mine.to(saved).double(), mine.double())
    assert any(f"rounded: base_model.model.{HEAD}" in note for note in notes) == rounds


def test_one_value_is_enough_to_differ(served):
    own, saved = values(torch.bfloat16), values(torch.float32).to(torch.bfloat16)
    saved[7, 3] *= 1.01
    saved[9] += 1
    with pytest.raises(AdapterUnsupported, match=r"trained embeddings .*2 of 50 rows differ"):
        served({EMBED: saved}, {EMBED: own})
    with pytest.raises(AdapterUnsupported, match="trained embeddings"):
        served({HEAD: own}, {EMBED: own, HEAD: -own})


def test_more_rows_are_a_resized_vocabulary(served):
    with pytest.raises(
        AdapterUnsupported, match=r"vocabulary was resized, to \[51, 8\] .*\[50, 8\]"
    ):
        served({EMBED: values(torch.float32, 51)}, {EMBED: values(torch.float32)})


def test_without_the_base_nothing_is_taken_on_trust(served):
    same = {EMBED: values(torch.float32)}
    with pytest.raises(AdapterUnsupported, match="not at hand"):
        served(same, same, folder=False)
    with pytest.raises(AdapterUnsupported, match="not at hand"):
        served(same, {"other.weight": values(torch.float32)})


def test_bf16_is_rounded_as_torch_does():
    found = torch.randn(100_000, dtype=torch.float32)
    expected = found.to(torch.bfloat16).view(torch.int16).numpy().view("<u2")
    assert np.array_equal(_rounded(found.numpy().astype("<f8"), "BF16"), expected)
