"""Reads the sizes of a base model that its memory depends on, without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cluster.adapters.format.safetensors_file import read_header
from cluster.errors import AdapterError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a base model that its memory depends on."""

    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int  # width of the MLP
    vocabulary: int
    tied: bool  # the output head is the embedding

    @classmethod
    def read(cls, model_dir: Path) -> Self | None:
        """Read config.json and the headers of the weights, or return None if they do not say
        enough.

        A model that cannot be read is refused when it is loaded, with the reason.
        """
        try:
            config: dict[str, Any] = json.loads((model_dir / "config.json").read_text())
            files = sorted(model_dir.glob("*.safetensors"))
            sizes = {
                item.name: _numel(item.shape)
                for file in files
                for item in read_header(file).tensors
            }
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            return cls(
                parameters=sum(sizes.values()),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                hidden=hidden,
                inner=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                tied="lm_head.weight" not in sizes,
            )
        except (OSError, ValueError, KeyError, TypeError, AdapterError):
            return None


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
