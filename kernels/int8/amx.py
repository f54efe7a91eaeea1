"""The int8 product on CPUs with AMX (Intel from Sapphire Rapids on)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

from kernels.int8.digits import quantise_weight
from kernels.native.compiler import openmp
from kernels.native.parallel import run_native

_ALIGNMENT = 64  # bytes: one row of a tile


@cache
def amx_available() -> bool:
    """Whether this process may use AMX, and its torch has the thread pool of GNU OpenMP."""
    return (
        torch.cpu._is_amx_tile_supported()
        and openmp() is not None
        and bool(torch.cpu._init_amx())  # asks the kernel for the tile registers
    )


class AmxLinear:
    """y = x W^T + b with an int8 weight and inputs of two digits (`kernels.int8.digits`)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise ``weight`` [out, in]; ``bias`` is [out]. Keeps neither.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        # Compiled here, so that a process that never asks for int8 does not import numba for it.
        from kernels.int8 import amx_code

        self._code = amx_code
        self._kernel = _kernel()
        self.out_features, self.in_features = weight.shape
        quantised = quantise_weight(weight)
        self._columns = quantised.columns.contiguous()
        self._weights = _in_blocks(quantised.steps, amx_code.COLUMNS, amx_code.STEP)
        columns = self._weights.shape[0] * amx_code.COLUMNS
        self._scales = _padded(quantised.scales, columns)
        self._bias = _padded(torch.zeros(1) if bias is None else bias, columns)
        self._width = self._weights.shape[1] * amx_code.STEP

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., out] in the dtype of ``x`` [..., in]."""
        code, dtype = self._code, x.dtype
        if dtype is not torch.float32:
            x = x.float()
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        if flat.stride(1) != 1:
            flat = flat.contiguous()
        rows, threads = flat.shape[0], torch.get_num_threads()
        y = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.float32)
        if rows:
            tile = code.TILE_TOKENS
            digits = -(-rows // tile) * tile * 2 * self._width
            sums = digits + -(-rows * 4 // _ALIGNMENT) * _ALIGNMENT
            size = sums + threads * code.SCRATCH_BYTES
            scratch = torch.empty(size + _ALIGNMENT, dtype=torch.int8)
            start = scratch.data_ptr()
            start += -start % _ALIGNMENT
            words = (ctypes.c_int64 * code.WORDS)(
                rows,
                self.in_features,
                self.out_features,
                flat.data_ptr(),
                flat.stride(0),
                self._columns.data_ptr(),
                start,
                start + digits,
                self._weights.data_ptr(),
                self._scales.data_ptr(),
                self._bias.data_ptr(),
                y.data_ptr(),
                start + sums,
            )
            address = ctypes.addressof(words)
            words[code.NEXT] = address + 8 * code.NEXT_BLOCK
            run_native(self._kernel.address, address, threads)
        return y if dtype is torch.float32 else y.to(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = (self._weights, self._scales, self._columns, self._bias)
        return sum(tensor.nbytes for tensor in held)


def _in_blocks(weight: torch.Tensor, columns: int, step: int) -> torch.Tensor:
    """[block, step, half, 16, 16 outputs, 4 inputs], zeros where ``weight`` [out, in] ends."""
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -inputs % step, 0, -outputs % columns))
    tiles = padded.view(padded.shape[0] // columns, 2, 16, padded.shape[1] // step, 16, 4)
    return tiles.permute(0, 3, 1, 4, 2, 5).contiguous()


def _padded(values: torch.Tensor, size: int) -> torch.Tensor:
    padded = torch.zeros(size)
    padded[: values.shape[0]] = values.detach()
    return padded


@cache
def _kernel() -> Any:
    from kernels.int8.amx_code import compile_kernel

    library = openmp()
    assert library is not None  # amx_available
    return compile_kernel(library.barrier)
