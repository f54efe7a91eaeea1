"""Llama-like models of known sizes, built at random on the device: a config and no download."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from cluster.engine.model.attention_backend import ATTENTION_NAME

_INITIALISERS = (
    "normal_",
    "uniform_",
    "kaiming_uniform_",
    "xavier_uniform_",
    "trunc_normal_",
)


@dataclass(frozen=True, slots=True)
class RandomSize:
    """The numbers that decide the bytes and FLOPs of a step."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool

    @property
    def sites(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Fused sites of one layer: input features and widths of the slices, by name."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (self.hidden, (q, kv, kv)),
            "o": (q, (self.hidden,)),
            "gate_up": (self.hidden, (self.inner, self.inner)),
            "down": (self.inner, (self.hidden,)),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' linears."""
        return self.layers * sum(inside * sum(widths) for inside, widths in self.sites.values())

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.hidden

    def adapter_weights(self, rank: int) -> int:
        """Count the values of an adapter on all layers' linears."""
        each = sum(rank * (len(w) * inside + sum(w)) for inside, w in self.sites.values())
        return self.layers * each

    def kv_bytes(self, item: int) -> int:
        """Count the bytes of one token's keys and values, of ``item`` bytes each."""
        return 2 * self.kv_heads * self.head_dim * self.layers * item

    def write_config(self, folder: Path) -> Path:
        """Write a config.json that transformers builds the model from; returns the folder."""
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder


SIZES = {
    "1b": RandomSize("1b", 2048, 16, 32, 8, 64, 8192, 128256, True),  # as Llama 3.2 1B
    "8b": RandomSize("8b", 4096, 32, 32, 8, 128, 14336, 128256, False),  # as Llama 3.1 8B
    "tiny": RandomSize("tiny", 64, 2, 4, 2, 16, 128, 257, True),  # for a rehearsal
}


def build_on(device: str, model_dir: Path, dtype: torch.dtype) -> nn.Module:
    """Build the model of a config with random weights on a device, as large as trained weights
    are: activations stay near 1."""
    config = transformers.AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with _default_dtype(dtype), _no_initialisation(), torch.device(device):
        make: Any = transformers.AutoModelForCausalLM.from_config
        model: nn.Module = make(config, attn_implementation=ATTENTION_NAME)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02 if "embed" in name else parameter.shape[-1] ** -0.5)
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _no_initialisation() -> Iterator[None]:
    """Leave out transformers' own initial values, which take minutes and are written over."""
    functions = {name: getattr(nn.init, name) for name in _INITIALISERS}

    def keep(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    for name in functions:
        setattr(nn.init, name, keep)
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(nn.init, name, function)
