"""The check passes for our engine, and fails for a wrong one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from benchmarks.engine.bank_loading import AdapterShelf
from benchmarks.engine.correctness import Agreement, BenchmarkRefused, check_correctness
from benchmarks.engine.engine_run import EngineRun
from benchmarks.engine.reference import Reference
from cluster.adapters.loader import LoraTensors
from cluster.config import AdapterConfig, EngineConfig

VOCAB = 97


@dataclass
class Parts:
    engine: EngineRun
    shelf: AdapterShelf
    reference: Reference

    def run(self, weights: torch.dtype = torch.float32) -> tuple[Agreement, ...]:
        return check_correctness(
            self.engine, self.shelf, self.reference, weights=weights, vocab_size=VOCAB, seed=0
        )

    def change(self, number: int, change: Callable[[LoraTensors], LoraTensors]) -> None:
        """Change one module of one adapter, for the engine alone."""
        tensors = dict(self.shelf.tensors[number])
        path = sorted(tensors)[0]
        tensors[path] = change(tensors[path])
        changed = list(self.shelf.tensors)
        changed[number] = tensors
        self.shelf.tensors = tuple(changed)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> Iterator[Parts]:
    model = tiny_model("llama")
    config = AdapterConfig(slots=16)
    shelf = AdapterShelf(model, 16, 8, seed=0)
    engine = EngineRun(model, EngineConfig(threads=1, kv_blocks=64, prefix_cache=False), config)
    shelf.read(engine.modules, config)
    yield Parts(engine, shelf, Reference(model, shelf.folders, torch.float32))
    engine.stop()
    shelf.close()


@pytest.fixture
def parts(loaded: Parts) -> Iterator[Parts]:
    right = loaded.shelf.tensors
    yield loaded
    loaded.shelf.tensors = right
    loaded.shelf.fill(loaded.engine.bank, 0)


def test_the_engine_agrees(parts: Parts) -> None:
    checks = parts.run()
    assert [check.fault for check in checks] == [""] * 6
    assert sum(check.sensitivity > 0 for check in checks) == 4


def test_one_wrong_weight_of_one_adapter_is_refused_and_named(parts: Parts) -> None:
    def spoil(right: LoraTensors) -> LoraTensors:
        wrong = right.B.clone()
        wrong[0, 0] += 3.0
        return right._replace(B=wrong)

    parts.change(3, spoil)
    with pytest.raises(BenchmarkRefused) as refusal:
        parts.run()
    assert "one adapter: log-probabilities differ from the reference by" in refusal.value.message
    assert "expected at most 0.0002" in refusal.value.message
    assert "another adapter:" not in refusal.value.message  # adapter 11 is as it should be
    assert "base" not in refusal.value.message


def test_a_forgotten_scaling_is_refused(parts: Parts) -> None:
    parts.change(11, lambda right: right._replace(scaling=2 * right.scaling))
    with pytest.raises(BenchmarkRefused, match="another adapter"):
        parts.run()


def test_adapters_that_change_nothing_prove_nothing() -> None:
    check = Agreement("one adapter", rms=0.01, limit=0.15, token_gap=0.0, sensitivity=0.02)
    assert "proves nothing" in check.fault
    assert replace(check, sensitivity=0.4).fault == ""


def test_another_token_or_nan_is_a_fault() -> None:
    right = Agreement("base", rms=1e-5, limit=1e-4, token_gap=0.0, sensitivity=0.0)
    assert right.fault == ""
    assert "prefers another token" in replace(right, token_gap=0.5).fault
    assert "differ" in replace(right, rms=float("nan")).fault


@pytest.mark.parametrize(("dtype", "quantize"), [("bfloat16", "none"), ("float32", "int8")])
def test_fewer_bits_are_no_fault_and_a_forgotten_scaling_still_is(
    parts: Parts, tiny_model: Callable[..., Path], dtype: str, quantize: str
) -> None:
    config = EngineConfig.model_validate(
        {"threads": 1, "kv_blocks": 64, "prefix_cache": False, "dtype": dtype, "quantize": quantize}
    )
    weights = torch.int8 if quantize == "int8" else torch.bfloat16
    engine = EngineRun(tiny_model("llama"), config, AdapterConfig(slots=16))
    try:
        coarse = Parts(engine, parts.shelf, parts.reference)
        exact = parts.run()
        assert all(a.rms > 10 * b.rms for a, b in zip(coarse.run(weights), exact, strict=True))
        doubled = {
            path: right._replace(scaling=2 * right.scaling)
            for path, right in parts.shelf.tensors[3].items()
        }
        parts.shelf.tensors = (*parts.shelf.tensors[:3], doubled, *parts.shelf.tensors[4:])
        with pytest.raises(BenchmarkRefused, match="one adapter"):
            coarse.run(weights)
    finally:
        engine.stop()
