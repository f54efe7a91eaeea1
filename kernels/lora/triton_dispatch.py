"""Whether the Triton kernels can run, and their import, which no CPU path reaches."""

import functools
import importlib.util
from collections.abc import Callable

import torch

from kernels.lora.triton_batch import TritonLoraBatch

AddLora = Callable[
    [torch.Tensor, torch.Tensor, int, TritonLoraBatch, torch.Tensor | None],
    None,
]
"""``kernels.lora.triton_ops.add_lora``."""


def available(device: torch.device | str) -> bool:
    """Whether ``device`` is a GPU for which Triton is installed."""
    return torch.device(device).type == "cuda" and _installed()


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def add_lora_operator() -> AddLora:
    """The operator. Raises ImportError where Triton is not installed."""
    from kernels.lora.triton_ops import add_lora

    return add_lora
