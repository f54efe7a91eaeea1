"""Loaded tensors are PEFT's, and whatever does not fit is refused with what was expected."""

import dataclasses
import json

import peft
import pytest
import torch
import transformers

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.format.manifest import read_adapter_files
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.adapter_checks import check_fit
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.errors import (
    AdapterError,
    AdapterLoadFailed,
    AdapterMalformed,
    AdapterNotFinite,
    AdapterRankTooHigh,
    AdapterTooLarge,
    AdapterWrongBase,
)

LIMITS = AdapterConfig(max_rank=8)
STEM = "base_model.model.model.layers.0.self_attn.q_proj"


# PEFT 0.21 asks transformers 5.23 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_deltas_equal_peft_s(tmp_path, tiny_model):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    shapes = {
        name: (m.out_features, m.in_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and name != "lm_head"
    }
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        rank_pattern={"up_proj": 2},
        alpha_pattern={"q_proj": 5},
        use_rslora=True,
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, BaseShapes("base", shapes), LIMITS)
    assert set(adapter.tensors) == set(shapes)
    for name, (A, B, scaling) in adapter.tensors.items():
        layer = wrapped.get_submodule(f"base_model.model.{name}")
        torch.testing.assert_close(B @ A * scaling, layer.get_delta_weight("default"))
    assert adapter.nbytes == adapter.manifest.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_keep_their_dtype_and_bytes(tmp_path, write_adapter, make_tensors, base, dtype):
    modules = ["model.layers.0.self_attn.q_proj"]
    tensors = {k: v.to(dtype) for k, v in make_tensors(modules, 4, 0).items()}
    folder = write_adapter(
        tmp_path / "x", tensors=tensors, modules=modules, layers_to_transform=[0]
    )
    loaded = load_adapter(folder, base, LIMITS).tensors[modules[0]]
    assert torch.equal(loaded.A, tensors[f"{STEM}.lora_A.weight"])
    assert torch.equal(loaded.B, tensors[f"{STEM}.lora_B.weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_must_be_finite(tmp_path, write_adapter, make_tensors, base, value):
    tensors = make_tensors(list(base.modules)[:2], 4, 0)
    tensors[f"{STEM}.lora_B.weight"][3, 1] = value
    folder = write_adapter(tmp_path / "x", tensors=tensors, layers_to_transform=[0])
    with pytest.raises(AdapterError, match=r"q_proj.lora_B.weight: expected finite .*found 1"):
        load_adapter(folder, base, LIMITS)


def test_shapes_must_fit_the_base(tmp_path, write_adapter, base):
    shapes = dict(base.modules) | {"model.layers.1.self_attn.v_proj": (6, 8)}
    with pytest.raises(
        AdapterError, match=r"layers.1.self_attn.v_proj.lora_B.weight: .*\[6, 4\], found \[4, 4\]"
    ):
        load_adapter(write_adapter(tmp_path / "x"), BaseShapes("base-1", shapes), LIMITS)


def test_modules_must_exist_in_the_base(tmp_path, write_adapter, base):
    shapes = {k: v for k, v in base.modules.items() if "layers.1" not in k}
    with pytest.raises(AdapterError, match=r"no linear module model.layers.1.self_attn.q_proj"):
        load_adapter(write_adapter(tmp_path / "x"), BaseShapes("base-1", shapes), LIMITS)


def test_an_adapter_that_lacks_tensors_is_served_where_peft_adds_nothing(
    tmp_path, write_adapter, base
):
    module = "model.layers.0.self_attn.q_proj"
    folder = write_adapter(tmp_path / "x", modules=[module])
    assert list(load_adapter(folder, base, LIMITS).tensors) == [module]
    (note,) = check_fit(read_adapter_files(folder), base, AdapterLimits())
    assert "1 modules of target_modules have no tensors" in note
    for init in (False, None, "orthogonal"):
        write_adapter(tmp_path / "x", modules=[module], init_lora_weights=init)
        with pytest.raises(AdapterMalformed, match=r"layers.1.self_attn.q_proj.*of chance"):
            load_adapter(folder, base, LIMITS)


def test_another_base_is_refused(tmp_path, write_adapter, base):
    load_adapter(write_adapter(tmp_path / "same", notes={"base_digest": "base-1"}), base, LIMITS)
    other = write_adapter(tmp_path / "other", notes={"base_digest": "base-2"})
    with pytest.raises(AdapterError, match="trained on base base-2, but the base served is base-1"):
        load_adapter(other, base, LIMITS)


def test_the_name_of_another_base_is_refused(tmp_path, write_adapter, base):
    served = dataclasses.replace(base, model_id="org/model-1B-Instruct")
    folder = write_adapter(tmp_path / "x")

    def load(name, **limits):
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return load_adapter(folder, served, AdapterConfig(max_rank=8, **limits))

    for name in ("org/model-1B-Instruct", "mirror/Model-1b-instruct", "/models/other", "", None):
        load(name)
    for name in ("org/model-1B", "meta-llama/Llama-3-8B"):
        with pytest.raises(AdapterWrongBase, match=f"base_model_name_or_path: trained on {name}"):
            load(name)
        load(name, base_check="shapes")
    write_adapter(folder, notes={"base_digest": base.digest})
    load("org/its-name-before")


@pytest.mark.parametrize(
    "config", [{"lora_alpha": 1e300}, {"alpha_pattern": {"q_proj": -4.1e4}}, {"lora_alpha": 1e308}]
)
def test_a_scaling_that_no_model_could_answer_with_is_refused(
    tmp_path, write_adapter, base, config
):
    folder = write_adapter(tmp_path / "x", **config)
    with pytest.raises(AdapterNotFinite, match=r"alpha.*: expected a scaling of at most 10000"):
        load_adapter(folder, base, LIMITS)


def test_limits_hold_before_data_is_read(tmp_path, write_adapter, base):
    folder = write_adapter(tmp_path / "x", rank=9)
    with pytest.raises(AdapterRankTooHigh, match=r"rank of at most 8 .*found 9"):
        load_adapter(folder, base, LIMITS)
    with pytest.raises(AdapterTooLarge, match=r"at most 100 bytes .*found"):
        load_adapter(folder, base, AdapterConfig(memory_bytes=100))


def test_rank_patterns_count_against_the_limit(tmp_path, write_adapter, make_tensors, base):
    tensors = make_tensors(["model.layers.0.self_attn.v_proj"], 4, 0)
    tensors |= make_tensors(["model.layers.0.self_attn.q_proj"], 16, 0)
    folder = write_adapter(
        tmp_path / "x", tensors=tensors, rank_pattern={"q_proj": 16}, layers_to_transform=[0]
    )
    with pytest.raises(AdapterRankTooHigh, match=r"q_proj.*found 16"):
        load_adapter(folder, base, LIMITS)


def test_files_that_changed_since_the_catalog_are_refused(tmp_path, write_adapter, base):
    folder = write_adapter(tmp_path / "x")
    digest = load_adapter(folder, base, LIMITS).manifest.digest
    assert load_adapter(folder, base, LIMITS, digest).manifest.digest == digest
    write_adapter(folder, seed=1)
    with pytest.raises(AdapterLoadFailed, match="changed since"):
        load_adapter(folder, base, LIMITS, digest)


def test_a_config_edited_in_place_changes_the_version(tmp_path, write_adapter, base):
    folder = write_adapter(tmp_path / "x")
    digest = load_adapter(folder, base, LIMITS).manifest.digest
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 64}))
    with pytest.raises(AdapterLoadFailed, match="changed since"):
        load_adapter(folder, base, LIMITS, digest)


@pytest.mark.parametrize(("largest", "vocab_size"), [(96, 97), (500, 0)])
def test_invocations_within_the_vocabulary_are_loaded(
    tmp_path, write_adapter, base, largest, vocab_size
):
    folder = write_adapter(tmp_path / "a", alora_invocation_tokens=[0, largest])
    sized = dataclasses.replace(base, vocab_size=vocab_size)
    loaded = load_adapter(folder, sized, LIMITS)
    assert loaded.manifest.invocation_tokens == (0, largest)


def test_an_invocation_that_no_prompt_can_have_is_refused(tmp_path, write_adapter, base):
    folder = write_adapter(tmp_path / "a", alora_invocation_tokens=[0, 97])
    sized = dataclasses.replace(base, vocab_size=97)
    with pytest.raises(AdapterWrongBase, match=r"alora_invocation_tokens: .*below 97.*found 97"):
        load_adapter(folder, sized, LIMITS)
