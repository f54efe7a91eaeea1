"""The torch engine's slots where the device fails."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.adapter_slots import BankAdapter
from cluster.engine.factory import BuiltTorchEngine, build_engine


@pytest.fixture
def built(tiny_model: Callable[..., Path]) -> BuiltTorchEngine:
    return build_engine(
        tiny_model("llama"),
        EngineConfig(device="cpu", kv_blocks=16),
        AdapterConfig(slots=1),
        clock=SystemClock(),
        on_chunks=lambda _: None,
        new_seed=lambda: 0,
    )


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
)
def test_a_copy_that_loses_the_device_ends_the_engine(
    built: BuiltTorchEngine, monkeypatch: pytest.MonkeyPatch, error: Exception, ends: bool
) -> None:
    """Requests that wait for adapters would else fail here for ever, and no step would notice."""
    built.engine.start()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(built.bank, "place", fail)
    with pytest.raises(RuntimeError, match="CUDA"):
        built.adapters.place(0, BankAdapter(None, None))
    if ends:
        assert built.engine.stop(drain=True, timeout_s=30)
    assert (built.engine.stalled_for() == float("inf")) == ends
    assert built.engine.stop(drain=False, timeout_s=30)
