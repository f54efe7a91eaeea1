"""Adapter folders made on the spot, and managers over none."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from tests.support.adapter_rig import NAMES, Bank, Loader, Rig, entry
from tests.support.manual_clock import ManualClock

HIDDEN, WIDE = 8, 12
SHAPES = {
    f"model.layers.{layer}.{module}": shape
    for layer in range(2)
    for module, shape in {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (4, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDE),
    }.items()
}

WriteAdapter = Callable[..., Path]


@pytest.fixture
def base() -> BaseShapes:
    return BaseShapes(digest="base-1", modules=SHAPES)


def lora_tensors(modules: list[str], rank: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        d_out, d_in = SHAPES[module]
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator)
    return tensors


@pytest.fixture
def write_adapter() -> WriteAdapter:
    """Write a PEFT folder: q_proj and v_proj of both layers, rank 4, unless told otherwise."""

    def write(
        folder: Path,
        *,
        rank: int = 4,
        seed: int = 0,
        modules: list[str] | None = None,
        tensors: dict[str, torch.Tensor] | None = None,
        notes: dict[str, Any] | None = None,
        **config: Any,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if modules is None:
            modules = [m for m in SHAPES if m.endswith(("q_proj", "v_proj"))]
        content = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": 8,
            "target_modules": sorted({m.rpartition(".")[2] for m in modules}),
            "bias": "none",
        }
        (folder / "adapter_config.json").write_text(json.dumps(content | config))
        if notes is not None:
            (folder / "manifest.json").write_text(json.dumps(notes))
        if tensors is None:
            tensors = lora_tensors(modules, rank, seed)
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return write


@pytest.fixture
def make_tensors() -> Callable[..., dict[str, torch.Tensor]]:
    return lora_tensors


@pytest.fixture(autouse=True)
def logs():
    with capture_logs() as entries:
        yield entries


@pytest.fixture
async def make_rig():
    made: list[Rig] = []
    executor = ThreadPoolExecutor(4)

    def make(slots=2, memory=1000, timeout=20.0, host=1000, **options) -> Rig:
        clock, bank, loader, events = ManualClock(), Bank(), Loader(), []
        config = AdapterConfig(
            slots=slots, memory_bytes=memory, load_timeout_s=timeout, host_bytes=host
        )
        catalog = AdapterCatalog(entry(name) for name in NAMES)
        options.setdefault("on_change", events.extend)
        manager = AdapterManager(config, catalog, bank, loader, clock, executor, **options)
        made.append(Rig(manager, bank, loader, clock, events))
        return made[-1]

    yield make
    for rig in made:
        for event in rig.loader.held.values():
            event.set()
        await rig.manager.close()
        rig.manager.check_integrity()
        assert rig.manager.waiting == 0
    executor.shutdown()
