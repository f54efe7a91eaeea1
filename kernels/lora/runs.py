"""The parts of a step's LoRA work, by the way each is computed.

Every part covers a range of the step's (token, adapter) pairs; what weighs a pair is a vector over
all of them, so that weights can be replaced without working anything out again.
"""

import ctypes
from dataclasses import dataclass

import torch

from kernels.lora.lane import Stack


@dataclass(frozen=True, slots=True)
class DenseRun:
    """One adapter over many tokens: two matmuls per site. Its pairs are in token order."""

    stack: Stack  # of one row
    first: int  # pairs [first, last)
    last: int
    start: int  # tokens [start, stop) where ``tokens`` is None
    stop: int
    tokens: torch.Tensor | None  # [m] int64, when they are not consecutive


@dataclass(frozen=True, slots=True)
class GroupedRun:
    """Many adapters over few tokens each: batched matmuls over a stack, groups padded to m.

    Every pair has a place in the [n, m] grid of stack rows. Places without a pair are computed and
    never read.
    """

    stack: Stack  # n rows
    first: int  # pairs [first, last), ordered by token
    last: int
    width: int  # m
    grid: torch.Tensor  # [n * m] int64: token at each place, 0 if it has none
    places: torch.Tensor  # [pairs] int64: place of each pair
    offsets: torch.Tensor | None  # [tokens] int64: first pair of each token; None: one pair each
    start: int  # tokens [start, stop) where ``tokens`` is None
    stop: int
    tokens: torch.Tensor | None  # [tokens] int64, when they are not consecutive


@dataclass(frozen=True, slots=True)
class NativeRun:
    """Adapters over their tokens, for `kernels.lora.lora_native_kernel`.

    It holds what its addresses point into.
    """

    step: ctypes.Array[ctypes.c_int64]  # the kernel's words of a step
    groups: torch.Tensor  # [adapters, GROUP_WORDS] int64, in order of slots; pairs counted from 0
    keep: tuple[torch.Tensor, ...]  # tokens and scratch, the adapters' rows, their layouts' tables
