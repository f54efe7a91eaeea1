"""Adapter folders as trainers leave them, and what PEFT computes with each."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Tensors = Mapping[str, torch.Tensor]


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Map module paths to (d_out, d_in), without the output head."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def random_lora(
    shapes: Mapping[str, tuple[int, int]],
    modules: Sequence[str],
    rank: int = 4,
    seed: int = 0,
    name: str = "base_model.model.{module}.{side}.weight",
) -> dict[str, torch.Tensor]:
    """Return tensors for some modules, under names of the given form."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        d_out, d_in = shapes[module]
        for side, shape in (("lora_A", (rank, d_in)), ("lora_B", (d_out, rank))):
            values = torch.randn(shape, generator=generator) * shape[1] ** -0.5
            tensors[name.format(module=module, side=side)] = values
    return tensors


def write_folder(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Write a PEFT folder of rank 4; ``config`` overrides and adds keys."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (folder / CONFIG).write_text(json.dumps(content | config))
    save_file(dict(tensors), folder / WEIGHTS)
    return folder


def load_base(model_dir: Path) -> Any:
    """Load the base in fp32, again for each caller: PEFT changes what it is given."""
    return transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


def peft_log_probs(base: Any, folder: Path, tokens: Sequence[int]) -> torch.Tensor:
    """Compute [tokens, vocabulary] with the adapter as PEFT loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
        with torch.inference_mode():
            return model(torch.tensor([list(tokens)]), use_cache=False).logits[0].log_softmax(-1)
