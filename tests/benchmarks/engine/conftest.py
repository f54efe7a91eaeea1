"""An engine, adapters and PEFT over a tiny random model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.engine.options import BenchOptions, make_options


@pytest.fixture
def tiny_options(tiny_model: Callable[..., Path]) -> BenchOptions:
    options = make_options(
        tiny_model("llama"),
        "tiny",
        quick=True,
        threads=1,
        only=("idle-16", "adapters-16", "mixture-4"),
        batches=(1, 4),
    )
    return replace(
        options,
        generations=(("base", 4, True), ("adapters-16", 4, True), ("mixture-4", 4, False)),
        rounds=2,
        prompt_tokens=8,
        output_tokens=5,
        peak_seconds=1e-4,
        peak_shapes=((32, 32, 32),),
        peak_bytes=2**20,
    )
