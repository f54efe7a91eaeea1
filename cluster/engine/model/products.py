"""The product of one (fused) projection, y = x W^T + b, with weights laid out for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from kernels.linear.panels import FloatPanels, float_panels_available
from kernels.native.program import Operation

Product = Callable[[torch.Tensor], torch.Tensor]
"""x [..., in] -> y [..., out]."""


@runtime_checkable
class NativeProduct(Protocol):
    """A product that native code computes: it can be part of a program."""

    in_features: int
    out_features: int

    def operation(self, x: int, y: int, rows: int, scratch: int, /) -> Operation:
        """Return the product of [rows, in] at one address into [rows, out] at another, both
        contiguous fp32, with as much scratch at the third."""
        ...

    def scratch_bytes(self, rows: int, threads: int, /) -> int:
        """Return what ``operation`` needs on so many threads."""
        ...


MakeProduct = Callable[[torch.Tensor, torch.Tensor | None], Product]
"""(weight [out, in], bias [out] or None) -> product."""

PACKED_BATCH = 16
"""Rows that the pre-packed layout is chosen for; other batch sizes work as well."""


def make_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """Return the fastest product for this device and dtype; ``weight`` is [out, in], ``bias``
    [out].

    On the CPU the weight is re-ordered once, and the caller should drop its own reference to it: in
    fp32 into panels, where the CPU has AVX-512, else in fp32 and bf16 for oneDNN.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and float_panels_available():
        return FloatPanels(weight, bias)
    if packs(weight):
        return _PackedProduct(weight, bias)
    return _PlainProduct(weight, bias)


def packs(weight: torch.Tensor) -> bool:
    """Return whether this weight can be pre-packed here."""
    return (
        weight.device.type == "cpu"
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bf16()))
    )


def _has_bf16() -> bool:
    """Return whether the CPU multiplies bf16 itself (AVX-512 BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _PlainProduct:
    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self._weight, self._bias)


class _PackedProduct:
    __slots__ = ("_bias", "_linear", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_BATCH)
        self._bias = bias
        self._linear = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._linear(x, self._weight, self._bias, "none", [], "")
        return y
