"""Weights laid out in panels, and their product with a few rows; fp32, CPU only."""

from __future__ import annotations

from functools import cache

import torch

from kernels.linear.panel_code import (
    BIAS,
    COLUMNS,
    LANES,
    MAX_TILE,
    PANELS,
    panel_module,
)
from kernels.native.compiler import compile_module, cpu_features, openmp
from kernels.native.parallel import call_native
from kernels.native.program import Operation

_ALIGNMENT = 64  # bytes: one vector, one cache line


def float_panels_available() -> bool:
    """Return whether this machine can run `FloatPanels`: AVX-512 and torch's GNU OpenMP."""
    return "avx512f" in cpu_features() and openmp() is not None


class FloatPanels:
    """An fp32 weight; ``y = x W^T + b``, summed in the order of the input features.

    A row's result is the same to the last bit in any batch.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Lay out ``weight`` [out, in]; ``bias`` is [out]. The caller may drop both."""
        self.out_features, self.in_features = weight.shape
        columns = _padded(weight.detach().float(), LANES)
        panels = columns.view(-1, LANES, self.in_features).transpose(1, 2)
        self._panels = _aligned(panels)
        self._bias = _bias(bias, columns.shape[0])
        self._description = _description(self._panels, self._bias, self.out_features)
        self._kernel = _kernel(self.in_features)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for fp32 ``x`` [..., in]. Raises ValueError for anything else."""
        if x.shape[-1] != self.in_features or x.dtype != torch.float32:
            raise ValueError(
                f"x {tuple(x.shape)} {x.dtype}, expected [..., {self.in_features}] torch.float32"
            )
        x = x.contiguous()
        y = x.new_empty((*x.shape[:-1], self.out_features))
        rows = y.numel() // self.out_features
        if rows:
            call = self.operation(x.data_ptr(), y.data_ptr(), rows)
            call_native(call.kernel, torch.get_num_threads(), *call.words)
        return y

    def operation(self, x: int, y: int, rows: int, _scratch: int = 0, /) -> Operation:
        """Return the product as one native call.

        Args:
            x: address of [rows, in] fp32, contiguous; ``y`` of [rows, out] likewise.
            rows: at least 1.
        """
        tiles = -(-rows // MAX_TILE)
        height = -(-rows // tiles)  # tiles of about equal height
        description = self._description.data_ptr()
        return Operation(self._kernel, (description, x, y, self.out_features, rows, height, 0))

    @staticmethod
    def scratch_bytes(_rows: int, _threads: int, /) -> int:
        """Return what `operation` needs: none."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._panels.nbytes + self._bias.nbytes


@cache
def _kernel(in_features: int) -> int:
    return compile_module(panel_module(in_features), "body")


def _padded(rows: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return ``rows`` [n, m] with rows of zeros up to a multiple."""
    return torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[0] % multiple))


def _bias(bias: torch.Tensor | None, columns: int) -> torch.Tensor:
    padded = torch.zeros(columns)
    if bias is not None:
        padded[: bias.shape[0]] = bias.detach()
    return _aligned(padded)


def _aligned(values: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy that starts at a cache line."""
    size = values.element_size()
    buffer = torch.empty(values.numel() + _ALIGNMENT // size, dtype=values.dtype)
    start = -buffer.data_ptr() % _ALIGNMENT // size
    return buffer[start : start + values.numel()].view(values.shape).copy_(values)


def _description(panels: torch.Tensor, bias: torch.Tensor, columns: int) -> torch.Tensor:
    words = torch.zeros(3, dtype=torch.int64)
    words[PANELS], words[BIAS], words[COLUMNS] = panels.data_ptr(), bias.data_ptr(), columns
    return words
