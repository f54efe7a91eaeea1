"""The table of PEFT's keys is complete, and unknown keys are taken for what they are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.format.default_targets import DEFAULT_TARGETS
from cluster.adapters.format.manifest import read_adapter_files
from cluster.adapters.format.peft_config import read_peft_config
from cluster.adapters.format.peft_keys import HONOURED, REFUSED, WITHOUT_EFFECT
from cluster.adapters.validation.adapter_checks import check_fit
from cluster.errors import AdapterUnsupported
from tests.conftest import TINY_FAMILIES


def read(folder: Path, **content: Any):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]} | content))
    return read_peft_config(path)


def test_every_key_of_the_installed_peft_is_known():
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    known = HONOURED.keys() | WITHOUT_EFFECT.keys() | REFUSED.keys()
    assert fields <= known, "a key of a new PEFT: say in the table what it does"


def test_no_key_is_in_two_tables():
    tables = [HONOURED, WITHOUT_EFFECT, REFUSED]
    assert len({key for table in tables for key in table}) == sum(map(len, tables))


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_what_changes_the_computation_is_refused_by_its_name(tmp_path, key):
    with pytest.raises(AdapterUnsupported, match=key):
        read(tmp_path, **{key: True})
    for off in (None, False, [], {}, ""):
        read(tmp_path, **{key: off})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("some_new_default", 16),
        ("ratio", 0.5),
        ("author", "somebody"),
        ("flags", [True, "a", 3, None, [1]]),
        ("is_new", True),
        ("loraplus_lr_embedding", 1e-6),
    ],
)
def test_unknown_data_is_noted(tmp_path, key, value):
    assert read(tmp_path, **{key: value}).unknown_keys == (key,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_future_trick", True),
        ("future_config", {"a": 1}),
        ("future_config", "x"),
        ("quantization_config", {"bits": 4}),
        ("nested", {"a": 1}),
        ("listed", [{"a": 1}]),
        ("lora_scale_2", 3),
        ("new_target_things", ["w"]),
        ("B_bias", True),
        ("essay", "x" * 5000),
        ("k" * 10_000, {"a": "b" * 10_000}),
    ],
)
def test_what_may_change_the_computation_is_refused(tmp_path, key, value):
    with pytest.raises(AdapterUnsupported, match=key[:50]) as refusal:
        read(tmp_path, **{key: value})
    assert len(refusal.value.message) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
def test_unknown_keys_that_are_off_are_nothing(tmp_path, value):
    assert read(tmp_path, use_future_trick=value, future_config=value).unknown_keys == ()


def test_unsloth_s_keys_are_its_own_business(tmp_path):
    config = read(tmp_path, unsloth_version="2026.1.2", unsloth_fixed=True, unsloth_info={"a": 1})
    assert config.unknown_keys == ()


def test_default_targets_are_peft_s():
    for model_type, targets in DEFAULT_TARGETS.items():
        assert sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[model_type]) == [*targets]
    families = {family.partition("_")[0] for family in TINY_FAMILIES}
    assert families <= DEFAULT_TARGETS.keys()


def test_a_type_without_a_default_is_named(tmp_path):
    config = read(tmp_path, target_modules=None)
    assert config.for_model("llama").targets("model.layers.0.self_attn.q_proj")
    assert not config.for_model("llama").targets("model.layers.0.self_attn.k_proj")
    with pytest.raises(AdapterUnsupported, match="no default is known for models of type 'novel'"):
        config.for_model("novel")


@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj", "embed_tokens"], ".*"])
def test_tying_is_refused_where_the_vocabulary_is_a_target(tmp_path, write_adapter, base, targets):
    module = "model.layers.0.self_attn.q_proj"
    folder = write_adapter(
        tmp_path, modules=[module], target_modules=["q_proj"], ensure_weight_tying=True
    )
    check_fit(read_adapter_files(folder), base, AdapterLimits())
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    both = targets if isinstance(targets, str) else sorted({"q_proj", *targets})
    path.write_text(json.dumps(content | {"target_modules": both}))
    with pytest.raises(AdapterUnsupported, match="ensure_weight_tying"):
        check_fit(read_adapter_files(folder), base, AdapterLimits())
