"""Brings a base model from a folder onto the device and gives it our attention and linears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from cluster.base_model.checks import (
    attention_modules,
    check_config,
    check_layers,
    decoder_layers,
    layer_window,
    limit_model_len,
)
from cluster.config import EngineConfig
from cluster.engine.model.attention_backend import ATTENTION_NAME, attach_attention
from cluster.engine.model.lora_layers import HeadProjection, replace_projections
from cluster.engine.model.norms import replace_norms
from cluster.engine.model.products import MakeProduct, make_product
from cluster.engine.model.quantize import check_quantize, make_int8_product
from cluster.engine.model.step_context import StepContext
from cluster.errors import ConfigError, ModelSourceError
from kernels.lora.sites import FusedSite


@dataclass(frozen=True)
class LoadedModel:
    """A base model ready for the runner."""

    model: nn.Module  # transformers' causal LM, with replaced modules
    context: StepContext  # shared with the replaced modules
    sites: tuple[FusedSite, ...]  # where LoRA is added: the layers' by definition, then the head
    device: torch.device
    dtype: torch.dtype
    vocab_size: int
    max_model_len: int  # tokens, prompt and completion
    eos_token_ids: frozenset[int]
    num_layers: int
    num_kv_heads: int
    head_dim: int

    @property
    def head_site(self) -> int:
        """Index of the output head among the sites."""
        return len(self.sites) - 1


ReadModel = Callable[[Path, torch.dtype], nn.Module]
"""Returns transformers' model of a folder, with weights of a dtype."""


def load_model(model_dir: Path, config: EngineConfig, read: ReadModel | None = None) -> LoadedModel:
    """Loads ``model_dir`` (config.json and safetensors) as ``config`` asks.

    ``read`` makes the model in place of transformers, say with random weights.

    Raises:
        ModelSourceError: the folder cannot be read, or the model is of a kind not supported.
        ConfigError: the device asked for is not there, or does not compute what is quantised.
    """
    device = resolve_device(config.device)
    check_quantize(config.quantize, device)
    dtype = resolve_dtype(config, device)
    try:
        hf_config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelSourceError(f"{model_dir}: config.json cannot be used: {error}") from error
    max_model_len = limit_model_len(hf_config, config.max_model_len)
    check_config(hf_config)
    model = (read or _from_pretrained)(model_dir, dtype)
    layers = decoder_layers(model)
    check_layers(model, layers)
    model.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        _leave_file(model)

    context = StepContext(max_model_len)
    heads = {
        attach_attention(module, context, layer_window(hf_config, layer))
        for layer, module in enumerate(attention_modules(layers))
    }
    if len(heads) != 1:
        raise ModelSourceError(
            f"{hf_config.model_type}: layers with different KV heads are not supported: "
            f"{sorted(heads)}"
        )
    ((num_kv_heads, head_dim),) = heads
    make = make_product if config.quantize == "none" else make_int8_product
    layer_sites = replace_projections(model, layers, context, make)
    replace_norms(model)
    head = _replace_head(model, len(layer_sites), context, make)
    return LoadedModel(
        model=model,
        context=context,
        sites=(*layer_sites, head),
        device=device,
        dtype=dtype,
        vocab_size=int(hf_config.vocab_size),
        max_model_len=max_model_len,
        eos_token_ids=eos_token_ids(model_dir, hf_config),
        num_layers=len(layers),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
    )


def resolve_device(wanted: str) -> torch.device:
    """Resolve ``auto`` to the GPU if there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device is 'cuda', but torch sees no CUDA device")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def resolve_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """Resolve ``auto`` to what the device computes best in."""
    dtype: torch.dtype = getattr(torch, config.dtype_on(device.type))
    without = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if config.dtype == "auto" and without else dtype


def _from_pretrained(model_dir: Path, dtype: torch.dtype) -> nn.Module:
    # A bar has no end of line: the next line of the log would be part of it.
    hf_logging: Any = transformers.utils.logging
    hf_logging.disable_progress_bar()
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelSourceError(f"{model_dir}: the model cannot be loaded: {error}") from error
    return model


def _leave_file(model: nn.Module) -> None:
    """Copy weights that lie in the mapped file: the few that stay would keep all of it resident,
    next to the packed copies of the others."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _replace_head(
    model: nn.Module, site: int, context: StepContext, make: MakeProduct
) -> FusedSite:
    """Replace the output head; what LoRA sees of it."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear:
        raise ModelSourceError(f"{type(model).__name__}: its output head is not an nn.Linear")
    path = next(path for path, module in model.named_modules() if module is head)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, HeadProjection(head, site, context, make))
    return FusedSite(path, head.in_features, ((path, head.out_features),))


def eos_token_ids(model_dir: Path, config: Any) -> frozenset[int]:
    """Return the end-of-sequence ids of generation_config.json and config.json together."""
    found = set(_as_ids(getattr(config, "eos_token_id", None)))
    if (model_dir / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(model_dir, local_files_only=True)
        found.update(_as_ids(generation.eos_token_id))
    return frozenset(found)


def _as_ids(value: int | list[int] | None) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif value is not None:
        yield from value
