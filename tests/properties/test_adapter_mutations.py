"""Folders that were changed at random: what is served computes what PEFT computes with the folder.

A refusal is always right here; an adapter that is served and differs from PEFT never is. PEFT is
asked for the base plus what it loads: its deltas, and the base's own tensors that it overwrites.
"""

import copy
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.format.tensor_names import read_tensor_names
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.adapter_checks import validate_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.errors import AdapterError
from tests.support.adapter_forms import CONFIG, WEIGHTS, linear_shapes, load_base, random_lora

MODULES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
]
NAMES = st.sampled_from(
    ["q_proj", "v_proj", "down_proj", "proj", "layers.1.self_attn.q_proj", "lm_head", *MODULES[:2]]
)
PATTERNS = st.sampled_from(
    [
        ".*",
        r".*\.(q|v)_proj",
        r"model\.layers\.1\..*",
        "^q_proj",
        r"(?:.*\.)?q_proj",
        "q_proj|v_proj",
        r".*layers\.\d\.self_attn\.[qv]_proj$",
        "(?i).*Q_PROJ",
        "q_proj{e<=1}",
        r"[[:alpha:]]+_proj",
        "all-linear",
        r"model\._orig_mod\.layers\..*",
    ]
)
RANKS = st.sampled_from([1, 2, 3, 4, 8])
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "r": RANKS,
    "lora_alpha": st.sampled_from([1, 8, 0, -3, 2.5]),
    "use_rslora": st.sampled_from([True, False, None]),
    "target_modules": st.one_of(
        st.none(), PATTERNS, st.lists(NAMES, max_size=3, unique=True), st.just("q_proj")
    ),
    "exclude_modules": st.one_of(st.none(), PATTERNS, st.lists(NAMES, max_size=2)),
    "layers_to_transform": st.sampled_from([None, 0, 1, [0], [1], [0, 1], [], [5]]),
    "layers_pattern": st.sampled_from([None, "layers", ["layers"], "blocks", []]),
    "rank_pattern": st.dictionaries(st.one_of(NAMES, PATTERNS), RANKS, max_size=2),
    "alpha_pattern": st.dictionaries(st.one_of(NAMES, PATTERNS), RANKS, max_size=2),
    "init_lora_weights": st.sampled_from(
        [True, False, None, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora", "loftq"]
    ),
    "bias": st.sampled_from(["none", "all", "lora_only"]),
    "fan_in_fan_out": st.booleans(),
    "lora_dropout": st.sampled_from([0.0, 0.3]),
    "use_dora": st.sampled_from([False, None, True]),
    "use_qalora": st.sampled_from([False, True]),
    "qalora_group_size": st.sampled_from([8, 16]),
    "lora_bias": st.booleans(),
    "modules_to_save": st.sampled_from([None, [], ["lm_head"]]),
    "ensure_weight_tying": st.booleans(),
    "velora_config": st.sampled_from([None, {"num_groups": 4}]),
    "layer_replication": st.sampled_from([None, [[0, 2], [1, 2]]]),
    "trainable_token_indices": st.sampled_from([None, [1, 2]]),
    "target_parameters": st.sampled_from([None, []]),
    "task_type": st.sampled_from([None, "CAUSAL_LM"]),
    "new_data": st.sampled_from([None, 3, "x", [1], {"a": 1}]),
    "use_new": st.booleans(),
}
PLAIN = "base_model.model.{module}.{side}.weight"
NAME_FORMS = st.sampled_from(
    [
        "base_model.model.{module}.{side}.default.weight",
        "base_model.model.{module}.{side}.other.weight",
        "base_model.model._orig_mod.{module}.{side}.weight",
        "module.base_model.model.{module}.{side}.weight",
        "base_model.{module}.{side}.weight",
        "{module}.{side}.weight",
    ]
)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
MORE = st.sampled_from(
    ["nothing", "embeddings", "own embeddings", "own head", "norm", "bias", "dora", "one side"]
)


@pytest.fixture(scope="module")
def model(tiny_model) -> tuple[Path, Any]:
    folder = tiny_model("llama_untied")
    return folder, load_base(folder)


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_nothing_is_served_that_differs_from_peft(model, data):
    folder, base = model
    shapes = linear_shapes(base)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    }
    for key in data.draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True)):
        config[key] = data.draw(CHANGES[key], label=key)
    all_or_some = st.lists(st.sampled_from(MODULES), min_size=1, unique=True)
    modules = data.draw(st.one_of(st.just(MODULES), all_or_some), label="modules")
    form = data.draw(st.one_of(st.just(PLAIN), NAME_FORMS), label="names")
    rank = data.draw(st.one_of(st.just(config["r"]), RANKS), label="rank")
    tensors = random_lora(shapes, modules, rank, name=form)
    dtype = data.draw(DTYPES, label="dtype")
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    more = data.draw(st.one_of(st.just("nothing"), MORE), label="more")
    tensors |= _more(more, base, tensors)
    with TemporaryDirectory() as at:
        adapter = Path(at)
        (adapter / CONFIG).write_text(json.dumps(config))
        save_file(tensors, adapter / WEIGHTS)
        served = BaseShapes.of_model(folder, "base", "org/base", shapes)
        try:
            loaded = load_adapter(adapter, served, AdapterConfig())
        except AdapterError as error:
            event(error.code)
            with pytest.raises(AdapterError):  # where it is added, too
                validate_adapter(adapter, served, AdapterLimits())
            return
        event("served")
        validate_adapter(adapter, served, AdapterLimits())
        names = read_tensor_names("", tensors)
        _as_peft_names(adapter, tensors, names.adapter, names.wrapper)
        try:
            expected = _by_peft(base, adapter)
        except (ValueError, TypeError, ImportError) as error:
            event(f"PEFT loads nothing: {str(error)[:60]}")
            return
        for path in shapes:
            own = base.get_submodule(path).weight
            ours = own.clone()
            if path in loaded.tensors:
                a, b, scaling = loaded.tensors[path]
                ours += b.float() @ a.float() * scaling
            torch.testing.assert_close(expected[path], ours, atol=1e-5, rtol=1e-5)
        for path in ("model.embed_tokens", "lm_head", "model.norm"):
            torch.testing.assert_close(
                expected[path], base.get_submodule(path).weight, atol=4e-3, rtol=1e-2
            )


def _more(kind: str, base: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stem = next(iter(tensors)).partition(".lora_A")[0]
    dtype = next(iter(tensors.values())).dtype
    return {
        "nothing": {},
        "one side": {f"{stem[:-6]}o_proj.lora_A.weight": torch.ones(4, 64)},
        "embeddings": {"base_model.model.model.embed_tokens.weight": torch.ones(97, 64)},
        "own embeddings": {
            "base_model.model.model.embed_tokens.weight": base.get_input_embeddings()
            .weight.detach()
            .to(dtype)
            .clone()
        },
        "own head": {"base_model.model.lm_head.weight": base.lm_head.weight.detach().clone()},
        "norm": {"base_model.model.model.norm.weight": torch.ones(64)},
        "bias": {f"{stem}.lora_B.bias": torch.ones(64)},
        "dora": {f"{stem}.lora_magnitude_vector": torch.ones(64)},
    }[kind]


def _as_peft_names(
    adapter: Path, tensors: dict[str, torch.Tensor], name: str, wrapper: str
) -> None:
    """Save tensors without the parts of names that we take out: PEFT is not shown them."""
    renamed = {}
    for key, tensor in tensors.items():
        parts = key.split(".")
        if wrapper:
            parts.remove(wrapper)
        if name and name in parts:
            parts.remove(name)
        renamed[".".join(parts)] = tensor
    save_file(renamed, adapter / WEIGHTS)


def _by_peft(base: Any, adapter: Path) -> dict[str, torch.Tensor]:
    """Return by module path the weight that PEFT computes with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(adapter)).eval()
        merged = wrapped.merge_and_unload()
    return {
        path: module.weight.detach()
        for path, module in merged.named_modules()
        if isinstance(getattr(module, "weight", None), torch.nn.Parameter)
    }
