"""Replicas and GPUs: one each, and clear words if they cannot be used."""

from pathlib import Path

import pytest
import torch

from cluster.errors import ConfigError
from deployments.engines.vllm_environment import Stamp, python_of
from deployments.local import gpus
from deployments.local.gpus import Share, share_out


def machine(
    monkeypatch: pytest.MonkeyPatch, *, devices: int, cuda: str | None = "13.0", driver: bool = True
) -> None:
    """Let this machine show GPUs, and torch a build for them."""
    monkeypatch.setattr(gpus, "has_nvidia_device", lambda: devices > 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0 and driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


def share(device: str = "auto", gpus: int | None = None, replicas: int | None = None) -> Share:
    return share_out(device, gpus, replicas, environment=None)


def test_without_a_gpu_replicas_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, devices=0)
    assert share() == Share(2, 0)
    assert share("cpu", replicas=5) == Share(5, 0)


@pytest.mark.parametrize(
    ("devices", "asked", "found"),
    [
        (1, {}, Share(1, 1)),
        (8, {}, Share(2, 1)),
        (8, {"gpus": 8}, Share(8, 1)),
        (8, {"replicas": 3}, Share(3, 1)),
        (8, {"replicas": 3, "gpus": 3}, Share(3, 1)),
        (8, {"device": "cuda"}, Share(2, 1)),
        (8, {"device": "cpu"}, Share(2, 0)),
    ],
)
def test_a_replica_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, devices: int, asked: dict[str, int], found: Share
) -> None:
    machine(monkeypatch, devices=devices)
    assert share(**asked) == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus": 3}, "3 replicas need 3 GPUs, one each, and there are 2"),
        ({"replicas": 3}, "3 replicas need 3 GPUs"),
        ({"gpus": 2, "replicas": 1}, "a replica has one GPU, so the numbers must be equal"),
        ({"gpus": 1, "device": "cpu"}, "engine.device is cpu"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], said: str
) -> None:
    machine(monkeypatch, devices=2)
    with pytest.raises(ConfigError, match=said):
        share(**asked)


@pytest.mark.parametrize("asked", [{"gpus": 1}, {"device": "cuda"}])
def test_why_no_gpu_can_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, int]
) -> None:
    machine(monkeypatch, devices=0)
    with pytest.raises(ConfigError, match=r"no GPU was found: .*nvidia-smi; .*--device cpu"):
        share(**asked)
    machine(monkeypatch, devices=1, cuda=None)
    with pytest.raises(ConfigError, match=r"build without CUDA; .*TORCH=default"):
        share(**asked)
    machine(monkeypatch, devices=1, driver=False)
    with pytest.raises(ConfigError, match=r"cannot use it; see .*nvidia-smi"):
        share(**asked)


def test_a_gpu_that_torch_cannot_use_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, devices=1, cuda=None)
    found = share()
    assert (found.replicas, found.gpus) == (2, 0)
    assert found.unused is not None
    assert "build without CUDA" in found.unused
    assert share("cpu").unused is None


def test_vllm_counts_by_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, devices=2, cuda=None)  # of Braid's own torch
    python = python_of(tmp_path)
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 4\n")
    python.chmod(0o700)
    Stamp("cuda", "key", "", "0.32.0", "2.13.0").write(tmp_path)
    assert share_out("auto", 4, None, environment=tmp_path) == Share(4, 1)
    Stamp("cpu", "key", "", "0.32.0", "2.13.0").write(tmp_path)
    found = share_out("auto", None, None, environment=tmp_path)
    assert (found.replicas, found.gpus) == (2, 0)
    assert found.unused is not None
    assert "--device cuda" in found.unused
    with pytest.raises(ConfigError, match="vLLM is installed for CPUs"):
        share_out("cuda", None, None, environment=tmp_path)


def test_vllm_without_a_gpu_says_what_its_torch_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, devices=1)
    python = python_of(tmp_path)
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'driver too old' >&2\nexit 1\n")
    python.chmod(0o700)
    Stamp("cuda", "key", "", "0.32.0", "2.13.0").write(tmp_path)
    with pytest.raises(ConfigError, match=r"finds no GPU.*driver too old"):
        share_out("cuda", None, None, environment=tmp_path)
