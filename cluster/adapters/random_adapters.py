"""Random PEFT adapters for a base model: weights without meaning, sizes like real ones."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cluster.errors import ModelSourceError

MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


B_DEVIATION = 0.3
"""Of B's elements: large enough that leaving an adapter out moves the model's answers by several
times what bf16 rounds away."""


def write_adapters(model: Path, out: Path, count: int, rank: int, seed: int) -> list[str]:
    """Write ``count`` adapters of ``rank`` on all seven linear modules, each into a folder.

    Args:
        model: folder of the base model; its config.json is read.
        out: folder for the adapters' folders.
        count: of adapters, all different.
        rank: at every module; alpha is the same, so that the scaling is 1.
        seed: the same one gives the same bytes.

    Returns:
        The names of the folders.

    Raises:
        ModelSourceError: the model's configuration has not the sizes of a Llama-like decoder.
    """
    config = json.loads((model / "config.json").read_text())
    try:
        layers, shapes = config["num_hidden_layers"], _shapes(config)
    except KeyError as error:
        raise ModelSourceError(
            f"{model}: config.json has no {error}; random adapters are made for Llama-like decoders"
        ) from error
    generator = torch.Generator().manual_seed(seed)
    aliases = []
    for number in range(count):
        alias = f"random-{number:02d}"
        folder = out / alias
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for layer in range(layers):
            for block, names in MODULES.items():
                for name in names:
                    d_out, d_in = shapes[name]
                    path = f"base_model.model.model.layers.{layer}.{block}.{name}"
                    a = torch.randn(rank, d_in, generator=generator) * d_in**-0.5
                    b = torch.randn(d_out, rank, generator=generator) * B_DEVIATION
                    tensors[f"{path}.lora_A.weight"] = a.to(torch.bfloat16)
                    tensors[f"{path}.lora_B.weight"] = b.to(torch.bfloat16)
        save_file(tensors, folder / "adapter_model.safetensors")
        peft_config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": rank,
            "target_modules": sorted(name for group in MODULES.values() for name in group),
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(peft_config))
        aliases.append(alias)
    return aliases


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Map module name -> (d_out, d_in) of a Llama-like decoder."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads) * head_dim
    return {
        "q_proj": (heads * head_dim, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, heads * head_dim),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
