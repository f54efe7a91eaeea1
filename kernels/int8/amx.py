"""The int8 product on CPUs with AMX (Intel from Sapphire Rapids on)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from kernels.int8.digits import quantise_weight
from kernels.native.compiler import openmp
from kernels.native.parallel import call_native
from kernels.native.program import Operation

_ALIGNMENT = 64  # bytes: one row of a tile


@cache
def amx_available() -> bool:
    """Return whether this process may use AMX, and its torch has the thread pool of GNU OpenMP."""
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
        """Return [..., out] in the dtype of ``x`` [..., in]."""
        dtype = x.dtype
        if dtype is not torch.float32:
            x = x.float()
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        if flat.stride(1) != 1:
            flat = flat.contiguous()
        rows, threads = flat.shape[0], torch.get_num_threads()
        y = torch.empty((*x.shape[:-1], self.out_features), dtype=torch.float32)
        if rows:
            scratch = torch.empty(self.scratch_bytes(rows, threads), dtype=torch.int8)
            call = self.operation(
                flat.data_ptr(), y.data_ptr(), rows, scratch.data_ptr(), flat.stride(0)
            )
            call_native(call.kernel, threads, *call.words)
        return y if dtype is torch.float32 else y.to(dtype)

    def operation(
        self, x: int, y: int, rows: int, scratch: int, /, x_stride: int | None = None
    ) -> Operation:
        """Return the product as one native call.

        Args:
            x: address of [rows, in] fp32, contiguous rows; ``y`` of [rows, out], contiguous.
            rows: at least 1.
            scratch: address of ``scratch_bytes`` bytes, which the call alone uses.
            x_stride: of the rows of x; None: they are contiguous.
        """
        code = self._code
        start = scratch + -scratch % _ALIGNMENT
        scales = start + self._digits_bytes(rows)
        words = [0] * code.WORDS
        words[code.ROWS], words[code.INPUTS] = rows, self.in_features
        words[code.OUTPUTS] = self.out_features
        words[code.X] = x
        words[code.X_STRIDE] = self.in_features if x_stride is None else x_stride
        words[code.INPUT_COLUMNS] = self._columns.data_ptr()
        words[code.DIGITS], words[code.SCALES] = start, scales
        words[code.WEIGHTS], words[code.WEIGHT_SCALES] = (
            self._weights.data_ptr(),
            self._scales.data_ptr(),
        )
        words[code.BIAS], words[code.Y] = self._bias.data_ptr(), y
        words[code.SUMS] = scales + _scales_bytes(rows)
        return Operation(self._kernel.address, tuple(words))

    def scratch_bytes(self, rows: int, threads: int, /) -> int:
        """Return what `operation` needs on so many threads."""
        sums = threads * self._code.SCRATCH_BYTES
        return self._digits_bytes(rows) + _scales_bytes(rows) + sums + _ALIGNMENT

    def _digits_bytes(self, rows: int) -> int:
        tile = self._code.TILE_TOKENS
        return -(-rows // tile) * tile * 2 * self._width

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = (self._weights, self._scales, self._columns, self._bias)
        return sum(tensor.nbytes for tensor in held)


def _scales_bytes(rows: int) -> int:
    return -(-rows * 4 // _ALIGNMENT) * _ALIGNMENT


def _in_blocks(weight: torch.Tensor, columns: int, step: int) -> torch.Tensor:
    """Return [block, step, half, 16, 16 outputs, 4 inputs] of ``weight`` [out, in], zero-padded."""
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
