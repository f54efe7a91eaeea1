"""Refuses adapters that would not be computed as PEFT computes them, each by a sentence.

vLLM checks much of it by itself; these checks come first or close gaps: it passes over modules of
layers that the model does not have, and takes weights that are smaller than the model's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA

_NAMES_SHOWN = 3


def check_config(folder: str, most_rank: int) -> None:
    """Pass if ``adapter_config.json`` describes a plain LoRA adapter of a rank that fits.

    Raises:
        ValueError: it does not; the message says which field is why.
    """
    path = Path(folder) / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("the folder has no adapter_config.json") from None
    if not (path.parent / "adapter_model.safetensors").is_file():
        raise ValueError("the folder has no adapter_model.safetensors")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"peft_type is {kind!r}, not 'LORA'")
    if config.get("use_dora"):
        raise ValueError("use_dora is set, and adapters of DoRA cannot be added up")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise ValueError("it trains biases (bias, lora_bias), which are not applied")
    if config.get("modules_to_save"):
        raise ValueError(
            f"it replaces whole modules (modules_to_save: {config['modules_to_save']})"
        )
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > most_rank:
        raise ValueError(
            f"its rank is {rank}, and max_lora_rank is {most_rank}: start vLLM with a larger one"
        )


def check_weights(lora: Any, manager: Any) -> None:
    """Pass if each of an adapter's matrices has its place in the model, and is finite.

    Args:
        lora: vLLM's LoRAModel, as it was read.
        manager: vLLM's LoRAModelManager.

    Raises:
        ValueError: a module is unknown or of a kind that is not mixed, a shape differs, or a weight
            is not finite. The message names the module.
    """
    places = _places(manager)
    unknown = sorted(set(lora.loras) - set(places))
    if unknown:
        more = f" and {len(unknown) - _NAMES_SHOWN} more" if len(unknown) > _NAMES_SHOWN else ""
        raise ValueError(
            f"the model has no place for {', '.join(unknown[:_NAMES_SHOWN])}{more}: no such layer, "
            "or one that LoRA does not reach"
        )
    for name, weights in lora.loras.items():
        module, index = places[name]
        if not isinstance(module, BaseLinearLayerWithLoRA | LogitsProcessorWithLoRA):
            raise ValueError(f"{name} is a {type(module).__name__}, which mixtures do not reach")
        if not all(bool(torch.isfinite(part).all()) for part in (weights.lora_a, weights.lora_b)):
            raise ValueError(f"{name} has weights that are not finite numbers")
        if index is not None:
            _check_shape(name, weights, module, index)


def _places(manager: Any) -> dict[str, tuple[Any, int | None]]:
    """Return module and slice by the names that adapters use; no slice if it is not known."""
    found: dict[str, tuple[Any, int | None]] = {}
    for name, module in manager.modules.items():
        parts = manager.packed_modules.get(name)
        stacks = module.lora_b_stacked
        slices = len(stacks) if isinstance(stacks, tuple) else 1
        found[name] = (module, 0 if slices == 1 else None)
        for index, part in enumerate(parts or ()):
            found[part] = (module, index if slices == len(parts) else None)
    return found


def _check_shape(name: str, weights: Any, module: Any, index: int) -> None:
    stacks = (module.lora_a_stacked, module.lora_b_stacked)
    a, b = (stack[index] if isinstance(stack, tuple) else stack for stack in stacks)
    wanted = (a.size(-1), b.size(-2))
    given = (weights.lora_a.size(1), weights.lora_b.size(0))
    # With tensor parallelism a stack holds a part of the module.
    whole = getattr(module, "tp_size", 1) == 1 or isinstance(module, LogitsProcessorWithLoRA)
    if (given != wanted) if whole else (given[0] < wanted[0] or given[1] < wanted[1]):
        raise ValueError(
            f"{name} is for {given[0]} inputs and {given[1]} outputs, and the model's has "
            f"{wanted[0]} and {wanted[1]}: the adapter is another model's"
        )
