"""Reads of a base model what its engine's caller must know, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.engine.model.model_loader import eos_token_ids
from cluster.errors import ModelSourceError


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The facts of a base model."""

    eos_token_ids: frozenset[int]
    module_shapes: dict[str, tuple[int, int]]  # linears, by path: (d_out, d_in)

    @classmethod
    def read(cls, model_dir: Path) -> Self:
        """Read them from config.json and generation_config.json.

        Raises:
            ModelSourceError: transformers has no such model.
        """
        try:
            config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call] # as it is
        except (OSError, ValueError, KeyError) as error:
            raise ModelSourceError(f"{model_dir}: config.json cannot be used: {error}") from error
        shapes = {
            path: (module.out_features, module.in_features)
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear)
        }
        return cls(eos_token_ids(model_dir, config), shapes)
