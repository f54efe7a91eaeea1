"""A converted PiSSA, OLoRA or CorDA adapter computes on the base what PEFT computes with it."""

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.adapters.format.manifest import read_adapter_files
from cluster.errors import AdapterError, AdapterMalformed, AdapterUnsupported
from tests.support.adapter_forms import load_base, peft_log_probs
from training.merging.conversion import convert_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA:UserWarning"),
]

TOKENS = [3, 14, 15, 92, 65, 35]
OPTIONS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "patterns": {
        "init_lora_weights": "olora",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 20},
    },
    "rslora and patterns": {
        "init_lora_weights": "pissa",
        "use_rslora": True,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 20},
    },
}


def trained(model_dir: Path, folder: Path, options: dict[str, Any]) -> tuple[Path, Path, Any]:
    """Save a model before and after its tensors are changed.

    Returns (trained, initial, PEFT's model).
    """
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **options)
    model = peft.get_peft_model(load_base(model_dir), config)
    model.peft_config["default"].init_lora_weights = True  # type: ignore[attr-defined] # LoraConfig's
    model.save_pretrained(folder / "initial")
    model.peft_config["default"].init_lora_weights = options["init_lora_weights"]  # type: ignore[attr-defined] # LoraConfig's
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / "trained")
    return folder / "trained", folder / "initial", model.eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_it_computes_what_peft_does(tmp_path, tiny_model, name):
    base = tiny_model("llama_untied")
    source, initial, model = trained(base, tmp_path, OPTIONS[name])
    _, rank = convert_adapter(source, initial, tmp_path / "out")
    assert rank == 8
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS]), use_cache=False).logits[0].log_softmax(-1)
        plain = load_base(base)(torch.tensor([TOKENS]), use_cache=False).logits[0].log_softmax(-1)
    found = peft_log_probs(load_base(base), tmp_path / "out", TOKENS)
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert read_adapter_files(tmp_path / "out").config.initial == ""


def test_the_tensors_are_those_that_peft_writes(tmp_path, tiny_model):
    source, initial, model = trained(tiny_model("llama_untied"), tmp_path, OPTIONS["pissa"])
    convert_adapter(source, initial, tmp_path / "out")
    with torch.random.fork_rng():
        copy.deepcopy(model).save_pretrained(
            tmp_path / "peft", path_initial_model_for_weight_conversion=str(initial)
        )
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    expected = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    ours, theirs = (read_adapter_files(tmp_path / name) for name in ("out", "peft"))
    assert {m: ours.scaling(m) for m in ours.modules} == {
        m: theirs.scaling(m) for m in theirs.modules
    }


def test_its_template_and_labels_stay(tmp_path, tiny_model):
    source, initial, _ = trained(tiny_model("llama_untied"), tmp_path, OPTIONS["pissa"])
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "manifest.json").write_text(json.dumps({"base_digest": "b", "description": "d"}))
    convert_adapter(source, initial, tmp_path / "out")
    files = read_adapter_files(tmp_path / "out")
    assert files.chat_template == "{{ messages }}"
    assert (files.labels.base_digest, files.labels.description) == ("b", "d")


def test_what_is_not_one_adapter_is_refused(tmp_path, tiny_model):
    source, initial, _ = trained(tiny_model("llama_untied"), tmp_path, OPTIONS["pissa"])
    with pytest.raises(AdapterUnsupported, match="found a plain LoRA"):
        convert_adapter(initial, initial, tmp_path / "out")
    weights = initial / "adapter_model.safetensors"
    tensors = load_file(weights)
    fewer = dict(list(tensors.items())[2:])
    save_file(fewer, weights)
    with pytest.raises(AdapterMalformed, match="expected the modules, ranks and alphas"):
        convert_adapter(source, initial, tmp_path / "out")
    save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, weights)
    with pytest.raises(AdapterError, match="finite"):
        convert_adapter(source, initial, tmp_path / "out")
    save_file(tensors, weights)
    config = initial / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 7'))
    with pytest.raises(AdapterMalformed, match="alphas"):
        convert_adapter(source, initial, tmp_path / "out")
    assert not (tmp_path / "out").exists()
