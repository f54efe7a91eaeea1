"""Write random PEFT adapters for a base model: weights without meaning, sizes like real ones."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def write_adapters(model: Path, out: Path, count: int, rank: int, seed: int) -> list[str]:
    """``count`` adapters of ``rank`` on all seven linear modules; returns their aliases."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads) * head_dim
    shapes = {
        "q_proj": (heads * head_dim, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, heads * head_dim),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    generator = torch.Generator().manual_seed(seed)
    aliases = []
    for number in range(count):
        alias = f"random-{number:02d}"
        folder = out / alias
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for layer in range(config["num_hidden_layers"]):
            for block, names in MODULES.items():
                for name in names:
                    d_out, d_in = shapes[name]
                    path = f"base_model.model.model.layers.{layer}.{block}.{name}"
                    a = torch.randn(rank, d_in, generator=generator) * d_in**-0.5
                    b = torch.randn(d_out, rank, generator=generator) * 0.01
                    tensors[f"{path}.lora_A.weight"] = a.to(torch.bfloat16)
                    tensors[f"{path}.lora_B.weight"] = b.to(torch.bfloat16)
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(
            json.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "r": rank,
                    "lora_alpha": rank,
                    "target_modules": sorted(name for group in MODULES.values() for name in group),
                    "bias": "none",
                }
            )
        )
        aliases.append(alias)
    return aliases


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for alias in write_adapters(
        options.model, options.out, options.count, options.rank, options.seed
    ):
        print(alias)


if __name__ == "__main__":
    main()
