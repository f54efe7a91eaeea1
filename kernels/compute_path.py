"""Tells which kernels a machine gets, and what it lacks for faster ones."""

from dataclasses import dataclass

import torch

from kernels.lora import lora_triton_dispatch as triton_kernels
from kernels.native.compiler import cpu_features, openmp


@dataclass(frozen=True, slots=True)
class ComputePath:
    """The way of computing on a device."""

    name: str
    lacks: str = ""  # what the fastest way would need; "": it is the fastest


def compute_path(device: torch.device, dtype: torch.dtype) -> ComputePath:
    """Return the way of computing on a device, in a dtype."""
    if device.type == "cuda":
        if triton_kernels.available(device):
            return ComputePath("Triton kernels")
        return ComputePath(
            "torch's operators", "compute capability 8.0 or more, and Triton installed"
        )
    if dtype != torch.float32:
        return ComputePath("torch's operators", "engine.dtype float32 for native kernels")
    if openmp() is None:
        return ComputePath("torch's operators", "a torch that uses GNU's OpenMP")
    if "avx512f" not in cpu_features():
        return ComputePath(
            "native kernels without AVX-512", "AVX-512: with it a step takes about half the time"
        )
    return ComputePath("native kernels with AVX-512")
