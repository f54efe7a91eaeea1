"""`braid doctor` on GPUs, compilers, kernels and engines."""

from pathlib import Path

import pytest
import torch

from cluster.config import Settings
from deployments.cli.cluster import machine_checks
from deployments.cli.cluster.checks import Verdict
from deployments.engines import vllm_environment as environments
from deployments.engines.vllm_environment import CPU, Stamp, python_of
from deployments.local import gpus
from kernels import compute_path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch can use."""
    for module in (machine_checks, gpus):
        monkeypatch.setattr(module, "has_nvidia_device", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def test_no_gpu_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "has_nvidia_device", lambda: False)
    assert machine_checks.check_gpu().verdict is Verdict.OK


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_named_with_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine_checks.check_gpu()
    assert (found.verdict, found.found) == (Verdict.OK, "NVIDIA H200, compute capability 9.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    found = machine_checks.check_gpu()
    assert found.verdict is Verdict.WARN
    assert "7.5" in found.found


@pytest.mark.usefixtures("gpu")
def test_a_torch_without_cuda_is_a_warning_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    found = machine_checks.check_gpu()
    assert found.verdict is Verdict.WARN
    assert "build without CUDA" in found.found
    assert "TORCH=default" in found.fix


def test_a_compiler_is_looked_for_as_triton_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_checks.check_compiler(tmp_path).verdict is Verdict.FAIL
    (tmp_path / "gcc").touch(mode=0o700)
    missing = machine_checks.check_compiler(tmp_path)
    assert missing.verdict is Verdict.FAIL
    assert f"{tmp_path / 'Python.h'} is missing" in missing.found
    (tmp_path / "Python.h").touch()
    assert machine_checks.check_compiler(tmp_path).found == str(tmp_path / "gcc")
    monkeypatch.setenv("CC", "other")
    assert "CC is other" in machine_checks.check_compiler(tmp_path).found


def test_slow_cpu_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_path, "openmp", lambda: True)
    monkeypatch.setattr(compute_path, "cpu_features", lambda: frozenset({"avx2"}))
    found = machine_checks.check_cpu_kernels()
    assert found.verdict is Verdict.WARN
    assert "AVX-512" in found.fix
    monkeypatch.setattr(compute_path, "cpu_features", lambda: frozenset({"avx512f"}))
    assert machine_checks.check_cpu_kernels().verdict is Verdict.OK


def test_vllm_is_told_with_its_place(tmp_path: Path) -> None:
    assert "braid engine install vllm" in machine_checks.check_vllm(tmp_path).found
    folder = tmp_path / "vllm"
    python_of(folder).parent.mkdir(parents=True)
    python_of(folder).touch()
    plugin = environments.plugin_digest(environments.plugin_source())
    Stamp("cpu", CPU.key(), plugin, "0.32.0", "2.13.0").write(folder)
    assert machine_checks.check_vllm(tmp_path).verdict is Verdict.OK
    Stamp("cpu", "other", plugin, "0.31.0", "2.13.0").write(folder)
    assert machine_checks.check_vllm(tmp_path).verdict is Verdict.WARN


@pytest.mark.usefixtures("gpu")
def test_a_machine_with_a_gpu_is_asked_for_a_compiler() -> None:
    assert len(list(machine_checks.machine_checks(Settings()))) == 4
