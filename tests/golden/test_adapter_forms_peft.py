"""Files as trainers and tools leave them: the engine's answers are PEFT's, form by form.

Each folder is written by hand, loaded by PEFT into a fresh base and by our loader into the bank.
Greedy tokens and log-probabilities of the whole vocabulary are compared.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.ids import Slot
from cluster.domain.request import SamplingParams
from kernels.tolerances import assert_close
from tests.support.adapter_forms import (
    linear_shapes,
    load_base,
    peft_log_probs,
    random_lora,
    write_folder,
)
from tests.support.engines import RunningEngine, make_request

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

VOCAB = 97
NAMED = "org/Tiny-1B"


class Forms:
    """Writes folders for one base."""

    def __init__(self, model_dir: Path, folder: Path) -> None:
        self.model_dir = model_dir
        self.shapes = linear_shapes(load_base(model_dir))
        self.folder = folder / "adapter"

    def modules(self, *ends: str) -> list[str]:
        return [module for module in self.shapes if module.endswith(ends)]

    def write(self, *ends: str, name: str = "", **config: Any) -> Path:
        form = {"name": name} if name else {}
        rank = config.get("r", 4)
        tensors = random_lora(
            self.shapes, self.modules(*(ends or ("q_proj", "v_proj"))), rank, **form
        )
        return write_folder(self.folder, tensors, **config)


def unsloth_pattern(forms: Forms) -> Path:
    leaves = "|".join(f"some_long_leaf_name_{i:03}" for i in range(200))
    pattern = (
        rf"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:{leaves}).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))"
    )
    return forms.write(
        "q_proj", "up_proj", target_modules=pattern, unsloth_version="2026.1", unsloth_fixed=True
    )


def enumerated(forms: Forms) -> Path:
    modules = forms.modules("q_proj", "down_proj")
    others = [f"model.layers.{i}.self_attn.q_proj" for i in range(2, 120)]
    pattern = "|".join(module.replace(".", r"\.") for module in (*others, *modules))
    return forms.write("q_proj", "down_proj", target_modules=f"({pattern})")


def fp64(forms: Forms) -> Path:
    tensors = random_lora(forms.shapes, forms.modules("q_proj", "v_proj"))
    doubles = {name: tensor.double() * (1 + 1e-9) for name, tensor in tensors.items()}
    return write_folder(forms.folder, doubles)


def untouched_embeddings(forms: Forms) -> Path:
    tensors = random_lora(forms.shapes, forms.modules("q_proj", "v_proj"))
    own = load_base(forms.model_dir).state_dict()["model.embed_tokens.weight"]
    tensors["base_model.model.model.embed_tokens.weight"] = own.clone()
    tensors["base_model.model.lm_head.weight"] = own.clone()
    return write_folder(forms.folder, tensors)


def foreign_manifest(forms: Forms) -> Path:
    folder = forms.write()
    (folder / "manifest.json").write_text(json.dumps({"name": "x", "description": None}))
    return folder


def fewer_modules(forms: Forms) -> Path:
    tensors = random_lora(forms.shapes, forms.modules("layers.1.self_attn.q_proj"))
    return write_folder(forms.folder, tensors, target_modules=["q_proj", "v_proj", "k_proj"])


FORMS: dict[str, Callable[[Forms], Path]] = {
    "unsloth's pattern": unsloth_pattern,
    "enumerated pattern": enumerated,
    "quantised base": lambda f: f.write(base_model_name_or_path="unsloth/tiny-1b-unsloth-bnb-4bit"),
    "default targets": lambda f: f.write(target_modules=None),
    "adapter's name in keys": lambda f: f.write(
        name="base_model.model.{module}.{side}.default.weight"
    ),
    "fp64": fp64,
    "unknown keys": lambda f: f.write(
        some_new_default=16, note="hello", flags=[True, 2], nothing=None, off=False, none=[]
    ),
    "known keys of PEFT": lambda f: f.write(
        eva_config={"rho": 2.0}, qalora_group_size=16, peft_version="0.99.0", lora_dropout=0.1
    ),
    "rank 256": lambda f: f.write("q_proj", r=256, target_modules=["q_proj"]),
    "fewer modules": fewer_modules,
    "untouched embeddings": untouched_embeddings,
    "foreign manifest": foreign_manifest,
}


@pytest.fixture
def forms(tiny_model, tmp_path) -> Forms:
    return Forms(tiny_model("llama"), tmp_path)


def ask(engine: RunningEngine, folder: Path, model_dir: Path) -> tuple[list[int], torch.Tensor]:
    """Return a greedy answer, and its log-probabilities in the vocabulary's order."""
    base = BaseShapes.of_model(model_dir, "base", NAMED, engine.built.module_shapes)
    engine.load(0, load_adapter(folder, base, AdapterConfig()).tensors)
    prompt = [3, 14, 15, 92, 65, 35]
    sampling = SamplingParams(max_tokens=16, temperature=0.0, logprobs=VOCAB)
    answer = engine.ask(make_request("r", prompt, sampling), ((Slot(0), 1.0),))
    found = torch.zeros(len(answer.tokens), VOCAB)
    for row, told in enumerate(answer.logprobs):
        for token, value in told.top:
            found[row, token] = value
    return prompt + answer.tokens, found


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_is_peft_s(running_engine, forms, form):
    folder = FORMS[form](forms)
    tokens, found = ask(running_engine("llama"), folder, forms.model_dir)
    expected = peft_log_probs(load_base(forms.model_dir), folder, tokens)
    at = slice(len(tokens) - 17, len(tokens) - 1)
    assert expected[at].argmax(-1).tolist() == tokens[-16:]
    assert_close("lora", found, expected[at])


WRAPPED = {
    "compiled base": "base_model.model._orig_mod.{module}.{side}.weight",
    "compiled adapter": "_orig_mod.base_model.model.{module}.{side}.weight",
    "distributed": "module.base_model.model.{module}.{side}.weight",
    "distributed base": "base_model.model.module.{module}.{side}.weight",
    "compiled decoder": None,
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_wrapped_model_s_names_mean_the_model_s(running_engine, forms, wrapped, tmp_path):
    name = WRAPPED[wrapped]
    plain = forms.write()
    expected_folder = plain.rename(tmp_path / "plain")
    if name is None:
        modules = forms.modules("q_proj", "v_proj")
        tensors = {
            key.replace("model.layers", "model._orig_mod.layers"): tensor
            for key, tensor in random_lora(forms.shapes, modules).items()
        }
        folder = write_folder(forms.folder, tensors)
    else:
        folder = forms.write(name=name)
    tokens, found = ask(running_engine("llama"), folder, forms.model_dir)
    expected = peft_log_probs(load_base(forms.model_dir), expected_folder, tokens)
    at = slice(len(tokens) - 17, len(tokens) - 1)
    assert expected[at].argmax(-1).tolist() == tokens[-16:]
    assert_close("lora", found, expected[at])


def test_peft_itself_reads_a_compiled_base_s_names_so(forms):
    """PEFT computes the same around a compiled base as without, by these names."""
    tokens = [3, 14, 15, 92, 65]
    plain = peft_log_probs(load_base(forms.model_dir), forms.write(), tokens)
    folder = forms.write(name=WRAPPED["compiled base"])
    compiled = torch.compile(load_base(forms.model_dir), backend="eager")
    assert torch.equal(peft_log_probs(compiled, folder, tokens), plain)
