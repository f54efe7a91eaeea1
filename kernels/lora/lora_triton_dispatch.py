"""Decides if the Triton kernels can run, and imports them, which no CPU path does."""

import functools
import importlib.util
from collections.abc import Callable

import torch

from kernels.lora.lora_triton_batch import TritonLoraBatch

AddLora = Callable[
    [torch.Tensor, torch.Tensor, int, TritonLoraBatch, torch.Tensor | None],
    None,
]
"""``kernels.lora.lora_triton_ops.add_lora``."""


_CAPABILITY = (8, 0)
"""Compute capability from which Triton uses tensor cores; before it, tiled kernels spill."""


@functools.cache
def available(device: torch.device) -> bool:
    """Return whether ``device`` is a GPU that the kernels support, and Triton is installed."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
        and importlib.util.find_spec("triton") is not None
    )


@functools.cache
def add_lora_operator() -> AddLora:
    """Return the operator. Raises ImportError if Triton is not installed."""
    from kernels.lora.lora_triton_ops import add_lora

    return add_lora
