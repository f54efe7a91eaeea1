"""PEFT's configuration means the same here as in PEFT."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from cluster.adapters.format.peft_config import read_peft_config
from cluster.errors import AdapterError, AdapterUnsupported


def read(tmp_path: Path, **content: Any):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]} | content))
    return read_peft_config(path)


NAMES = st.sampled_from(["q_proj", "v_proj", "proj", "up_proj", "layers.1", "layers.1.mlp.up_proj"])
MODULES = st.sampled_from(
    [
        f"model.layers.{layer}.{name}"
        for layer in (0, 1, 11)
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.experts.1.up_proj")
    ]
    + ["q_proj", "lm_head", "model.layers.1"]
)
PATTERNS = st.one_of(
    NAMES, st.sampled_from([r".*1\.self_attn.*", "q_proj|v_proj", "^model.layers.1.*", "[qv]_proj"])
)


@given(
    rank_pattern=st.dictionaries(PATTERNS, st.integers(1, 64), max_size=4),
    alpha_pattern=st.dictionaries(PATTERNS, st.integers(1, 64), max_size=4),
    module=MODULES,
    rslora=st.booleans(),
)
def test_patterns_choose_rank_and_alpha_as_peft_does(
    tmp_path_factory, rank_pattern, alpha_pattern, module, rslora
):
    config = read(
        tmp_path_factory.getbasetemp(),
        r=8,
        lora_alpha=16,
        use_rslora=rslora,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
    )
    rank = rank_pattern.get(get_pattern_key(rank_pattern.keys(), module), 8)
    alpha = alpha_pattern.get(get_pattern_key(alpha_pattern.keys(), module), 16)
    assert config.rank_of(module) == rank
    assert config.alpha_of(module) == alpha
    assert config.scaling_of(module) == alpha / (math.sqrt(rank) if rslora else rank)


@given(
    module=MODULES,
    target=st.one_of(
        st.lists(NAMES, min_size=1, max_size=3, unique=True),
        st.sampled_from([r".*\.(q|v)_proj", r"model\.layers\.1\..*"]),
    ),
    exclude=st.one_of(st.none(), st.lists(NAMES, max_size=2), st.just(r".*v_proj")),
    layers=st.one_of(st.none(), st.integers(0, 2), st.lists(st.integers(0, 2), max_size=2)),
    layers_pattern=st.sampled_from(
        [None, "layers", ["blocks", "layers"], "experts", "model|layers", ["x", "layers|model"]]
    ),
)
@example(
    module="model.layers.1.self_attn.q_proj",
    target=["q_proj"],
    exclude=None,
    layers=1,
    layers_pattern="model|layers",  # matches without the layer's number
)
def test_targets_are_peft_s(tmp_path_factory, module, target, exclude, layers, layers_pattern):
    if isinstance(target, str):
        layers = layers_pattern = None  # PEFT refuses layers next to a pattern
    if not layers and layers != 0:
        layers_pattern = None  # PEFT refuses a pattern without layers
    content = {
        "target_modules": target,
        "exclude_modules": exclude,
        "layers_to_transform": layers,
        "layers_pattern": layers_pattern,
    }
    expected = check_target_module_exists(LoraConfig(**content), module)
    config = read(tmp_path_factory.getbasetemp(), **content)
    assert config.targets(module) == bool(expected)


def test_all_linear_targets_all_but_the_output_head(tmp_path):
    config = read(tmp_path, target_modules="all-linear")
    assert config.targets("model.layers.0.mlp.up_proj")
    assert not config.targets("lm_head")


def test_everything_peft_writes_by_default_is_accepted(tmp_path):
    plain = LoraConfig(r=4, target_modules="q_proj", bias="none").to_dict()
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(plain, default=list))
    assert read_peft_config(path).rank == 4


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"use_qalora": True}, "QALoRA"),
        ({"arrow_config": {"x": 1}}, "Arrow"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"init_lora_weights": "pissa_niter_4"}, "braid adapters convert"),
        ({"init_lora_weights": "loftq"}, "nothing converts it"),
        ({"fine_tune_type": "lora", "lora_parameters": {}, "peft_type": None}, "mlx's format"),
        ({"init_lora_weights": "tomorrow"}, "tomorrow"),
        ({"bias": "sideways"}, "bias"),
        ({"use_future_trick": True}, "use_future_trick"),
    ],
    ids=str,
)
def test_what_is_not_served_is_refused_by_name(tmp_path, content, name):
    with pytest.raises(AdapterUnsupported, match=name) as refusal:
        read(tmp_path, **content)
    assert "adapter_config.json" in refusal.value.message


def test_the_tokens_that_invoke_an_activated_lora_are_read(tmp_path):
    assert read(tmp_path, alora_invocation_tokens=[5, 0, 5]).invocation_tokens == (5, 0, 5)


@pytest.mark.parametrize("off", [None, [], False])
def test_without_tokens_it_is_an_ordinary_adapter_as_peft_has_it(tmp_path, off):
    assert read(tmp_path, alora_invocation_tokens=off).invocation_tokens == ()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"alora_invocation_tokens": [1, -2]}, "alora_invocation_tokens: .*0 or more"),
        ({"alora_invocation_tokens": [1.0]}, "alora_invocation_tokens: "),
        ({"alora_invocation_tokens": [True]}, "alora_invocation_tokens: "),
        ({"alora_invocation_tokens": "call"}, "alora_invocation_tokens: "),
        ({"alora_invocation_tokens": [1] * 257}, "alora_invocation_tokens: .*at most 256"),
        ({"r": 0}, "r: "),
        ({"r": True}, "r: "),
        ({"r": "8"}, "r: "),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"rank_pattern": {"(": 1}}, "rank_pattern"),
        ({"rank_pattern": ["q"]}, "rank_pattern"),
        ({"target_modules": 3}, "target_modules"),
        ({"target_modules": "["}, "target_modules"),
        ({"target_modules": "x" * 70_000}, "target_modules"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
        ({"rank_pattern": {f"{i}" + "x" * 60_000: 1 for i in range(3)}}, "rank_pattern"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform"),
        ({"layers_pattern": 3}, "layers_pattern"),
        ({"layers_pattern": "layers"}, "layers_pattern: goes with layers_to_transform"),
        ({"layers_pattern": ["layers"], "layers_to_transform": []}, "layers_pattern: goes with"),
        ({"target_modules": ".*q", "layers_to_transform": [0]}, "layers_to_transform: goes with"),
        ({"target_modules": "all-linear", "layers_to_transform": 0}, "to_transform: goes with"),
        (
            {"target_modules": "q", "layers_to_transform": [1], "layers_pattern": "layers"},
            "layers_pattern: goes with a list",
        ),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    ],
    ids=str,
)
def test_malformed_values_are_named(tmp_path, content, key):
    with pytest.raises(AdapterError, match=key):
        read(tmp_path, **content)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\ud800".encode("utf-8", "surrogatepass")])
def test_broken_files_are_refused(tmp_path, text):
    path = tmp_path / "adapter_config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AdapterError, match="adapter_config"):
        read_peft_config(path)


def test_a_long_enumeration_is_as_good_as_a_short_one(tmp_path):
    modules = [f"model.layers.{i}.self_attn.{m}" for i in range(80) for m in ("q_proj", "v_proj")]
    pattern = "(?:" + "|".join(module.replace(".", r"\.") for module in modules) + ")"
    config = read(tmp_path, target_modules=pattern)
    assert len(pattern) > 5000
    assert all(config.targets(module) for module in modules)
    assert not config.targets("model.layers.80.self_attn.q_proj")


def test_settings_without_effect_and_unset_new_ones_are_accepted(tmp_path):
    config = read(tmp_path, use_dora=False, lora_dropout=0.1, some_new_feature=None, bias="all")
    assert config.rank == 8
