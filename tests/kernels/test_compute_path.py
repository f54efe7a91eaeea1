"""The way of computing that a machine gets, and what it lacks."""

import pytest
import torch

from kernels import compute_path as module
from kernels.compute_path import compute_path
from kernels.linear.panels import float_panels_available
from kernels.lora import lora_triton_dispatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_this_machine_is_told_as_its_kernels_see_it() -> None:
    fast = compute_path(CPU, torch.float32).lacks == ""
    assert fast == float_panels_available()


@pytest.mark.parametrize(
    ("features", "lacks"), [({"avx2"}, "AVX-512"), ({"neon"}, "AVX-512"), ({"avx512f"}, "")]
)
def test_vector_units_count(
    monkeypatch: pytest.MonkeyPatch, features: set[str], lacks: str
) -> None:
    monkeypatch.setattr(module, "openmp", lambda: True)
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset(features))
    found = compute_path(CPU, torch.float32)
    assert found.lacks.startswith(lacks)
    assert bool(found.lacks) == bool(lacks)


def test_other_threads_and_dtypes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "float32" in compute_path(CPU, torch.bfloat16).lacks
    monkeypatch.setattr(module, "openmp", lambda: None)
    assert "OpenMP" in compute_path(CPU, torch.float32).lacks


@pytest.mark.parametrize("available", [True, False])
def test_a_gpu_has_triton_or_torch(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(lora_triton_dispatch, "available", lambda _: available)
    found = compute_path(CUDA, torch.bfloat16)
    assert ("Triton" in found.name) == available
    assert ("Triton" in found.lacks) != available
