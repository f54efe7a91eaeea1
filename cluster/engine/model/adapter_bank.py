"""The bank that fits a loaded model and its configuration."""

from __future__ import annotations

import torch

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.model.model_loader import LoadedModel
from cluster.errors import ConfigError
from kernels.lora.bank import AdapterBank


def make_bank(loaded: LoadedModel, config: EngineConfig, adapters: AdapterConfig) -> AdapterBank:
    """Return an empty bank for a model's sites.

    Adapters are held in the engine's dtype, or in bf16 with int8 weights, which are coarser, so
    that reading them costs half; ``adapters.dtype`` says otherwise.

    Raises:
        ConfigError: ``adapters.dtype`` does not go with the engine's.
    """
    return AdapterBank(
        loaded.sites,
        adapters.slots,
        adapters.max_rank,
        dtype=loaded.dtype,
        device=loaded.device,
        storage=_storage(loaded, config, adapters),
    )


def _storage(loaded: LoadedModel, config: EngineConfig, adapters: AdapterConfig) -> torch.dtype:
    if adapters.dtype == "auto":
        coarse = config.quantize == "int8" and loaded.dtype == torch.float32
        return torch.bfloat16 if coarse else loaded.dtype
    storage: torch.dtype = getattr(torch, adapters.dtype)
    narrower = loaded.dtype == torch.float32 and loaded.device.type == "cpu"
    if storage != loaded.dtype and not (narrower and storage == torch.bfloat16):
        raise ConfigError(
            f"adapters.dtype is {adapters.dtype} with engine.dtype {_name(loaded.dtype)} on "
            f"{loaded.device.type}, expected auto, the engine's own, or bfloat16 with float32 on "
            "a CPU"
        )
    return storage


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
