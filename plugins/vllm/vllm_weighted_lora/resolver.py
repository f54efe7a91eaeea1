"""Lets `vllm serve` take mixtures as names of models, such as ``cron=0.4,json=-0.3``."""

from __future__ import annotations

import os
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from vllm_weighted_lora.mixtures import parse_text
from vllm_weighted_lora.requests import mixture_request

FOLDER_VARIABLE = "WEIGHTED_LORA_DIR"
"""Names the environment variable that holds the folder of adapters."""


class MixtureResolver(LoRAResolver):
    """Finds adapters as folders below one folder; a name is an adapter or a mixture of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the mixture that a model's name asks for; None if it is not one."""
        pairs = parse_text(lora_name)
        if pairs is None:
            return None
        folders = {name: self._folder / name for name, _ in pairs}
        if not all((folder / "adapter_config.json").is_file() for folder in folders.values()):
            return None
        try:
            return mixture_request(pairs, folders={n: str(path) for n, path in folders.items()})
        except ValueError:
            return None


def register_resolver() -> None:
    """Register the resolver if the environment names a folder.

    Raises:
        ValueError: it names something else.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise ValueError(f"{FOLDER_VARIABLE} is {named!r}, which is not a folder")
    LoRAResolverRegistry.register_resolver("weighted_lora", MixtureResolver(folder))
