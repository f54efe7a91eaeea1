"""The numbers of the int8 products: how weights and inputs become integers.

A weight is int8 with one scale per output. An input row keeps more: it is rounded to `LEVELS` steps
on each side of zero, and such an integer is written with two signed digits of eight bits, ``256 h +
l``. Both digits go through the int8 product, which reads each weight once for both, so that what
int8 costs in accuracy is the rounding of the weights alone. Inputs rounded to eight bits cost four
times as much: a row of a language model has a few large values, and its scale is theirs.

Integer sums do not depend on their order, and everything else belongs to one row: a row's result is
the same to the last bit alone and in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

WEIGHT_LEVELS = 127
"""Steps of a weight on each side of zero."""

LEVELS = 127 * 256 + 127
"""Steps of an input on each side of zero: the largest number of two digits of -128..127."""

SMALLEST = 1e-30
"""Rows whose largest absolute value is below count as zero: their scale would not be a normal
fp32 number."""


SMALLEST_COLUMN = 1e-6
"""Size from which on columns count, relative to the largest one."""


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """``weight[o, i]`` is about ``steps[o, i] * scales[o] * columns[i]``."""

    steps: torch.Tensor  # int8 [out, in], -127..127
    scales: torch.Tensor  # fp32 [out]; 0 for a row of zeros
    columns: torch.Tensor  # fp32 [in], 0 < column <= 1


def quantise_weight(weight: torch.Tensor) -> QuantisedWeight:
    """Round ``weight`` [out, in] to the nearest steps.

    Columns are divided by the square root of their root mean square first, and the input's elements
    are multiplied by it: a few columns are much larger than the others, and without that the steps
    of a whole row are as coarse as those columns need. The exponent of one half leaves large
    columns a part of their size; they are large because they matter.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    weight = weight.detach().float()
    sizes = weight.square().mean(0).sqrt()
    largest = float(sizes.max())
    if not math.isfinite(largest):
        raise ValueError("a weight is NaN or infinite")
    columns = torch.ones_like(sizes)
    if largest > 0:
        columns = (sizes / largest).clamp_min(SMALLEST_COLUMN).sqrt()
    weight = weight / columns
    scales = weight.abs().amax(1) / WEIGHT_LEVELS
    inverse = torch.where(scales > 0, 1.0 / scales, 0.0)
    steps = weight.mul(inverse[:, None]).round_().clamp_(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    return QuantisedWeight(steps.to(torch.int8), scales, columns)


def split_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales [rows, 1] and digits [2, rows, in] int8, high ones first, of fp32 ``x``
    [rows, in].

    A row with NaN or infinity has scale NaN and digits 0.
    """
    largest = torch.linalg.vector_norm(x, float("inf"), -1, True)
    finite = torch.isfinite(largest)
    usable = finite & (largest >= SMALLEST)
    scales = torch.where(usable, largest / LEVELS, 0.0)
    scales = torch.where(finite, scales, torch.nan)
    inverse = torch.where(usable, torch.full_like(largest, LEVELS) / largest, 0.0)
    values = torch.where(finite, x * inverse, 0.0).round_().to(torch.int32)
    high = (values + 128) >> 8
    return scales, torch.stack((high, values - (high << 8))).to(torch.int8)


def reference_linear(
    x: torch.Tensor, weight: QuantisedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """Compute y [rows, out] in fp64 for ``x`` [rows, in], which is not quantised here."""
    full = weight.steps.double() * weight.scales.double()[:, None] * weight.columns.double()
    y = x.double() @ full.T
    return y if bias is None else y + bias.double()
