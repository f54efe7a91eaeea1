"""The base models of the proofs: a tiny one that is written here, or any other."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cluster.base_model.source import QUICKSTART_MODEL, resolve_model
from cluster.config import Settings, cache_folder

TINY = "tiny"
QUICKSTART = "135m"
CONSTANT = 0.3
SEED = 5


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine."""

    name: str
    path: Path
    served: str  # the cluster's setting
    called: str  # its name in requests
    layers: int


def base_model(name: str, folder: Path) -> BaseModel:
    """Find a base: "tiny" is written into ``folder``, "135m" is the quickstart's; or any id or
    folder.

    Raises:
        ModelSourceError: it cannot be had.
    """
    cache = cache_folder(Settings())
    quickstart = resolve_model(QUICKSTART_MODEL, cache)
    if name == TINY:
        name, served = (
            "a random Llama of two layers",
            str(write_tiny_model(folder, quickstart.path)),
        )
    else:
        name = served = QUICKSTART_MODEL if name == QUICKSTART else name
    location = resolve_model(served, cache)
    config = json.loads((location.path / "config.json").read_text())
    return BaseModel(name, location.path, served, location.model_id, config["num_hidden_layers"])


def write_tiny_model(folder: Path, tokenizer_of: Path) -> Path:
    """Write a random Llama of two layers with another model's tokens; the same at each call.

    The residual stream's first number is the same positive one at every position, and the first
    number that each ``down_proj`` is given is positive too: what a closed-form adapter reads.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model: Any = LlamaForCausalLM(config)
        model.to(torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                spread = 0.1 if "embed_tokens" in name else parameter.shape[1] ** -0.5
                parameter.data.normal_(std=spread)
    model.model.embed_tokens.weight.data[:, 0] = CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[0] = 0
        layer.mlp.down_proj.weight.data[0] = 0
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            projection.weight.data[0] = 0
            projection.weight.data[0, 0] = 2.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
