"""One table of tolerances, by operator and dtype, for tests and benchmarks alike.

A comparison passes when ``|got - want| <= atol * scale + rtol * |want|`` with ``scale`` the largest
absolute value of ``want`` (at least 1): sums of hundreds of products lose digits relative to the
largest terms, not to each small result.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds of one operator in one dtype, with the reason for their size."""

    atol: float
    rtol: float
    reason: str


_FP32_SUM = "sums of up to ~2000 fp32 products in another order: ~sqrt(2000) * 6e-8, with a margin"
_BF16_SUM = "inputs and one intermediate rounded to 8 bits of mantissa: 2^-8 per rounding"
_FP16_SUM = "inputs and one intermediate rounded to 11 bits of mantissa: 2^-11 per rounding"
_INT8_INPUT = "inputs rounded to 32639 steps of a row's largest value, weights as quantised"

TOLERANCES: dict[tuple[str, torch.dtype], Tolerance] = {
    ("lora", torch.float32): Tolerance(5e-6, 1e-5, _FP32_SUM),
    ("lora", torch.bfloat16): Tolerance(2e-2, 2e-2, _BF16_SUM),
    ("lora", torch.float16): Tolerance(3e-3, 3e-3, _FP16_SUM),
    ("elementwise", torch.float32): Tolerance(2e-6, 4e-6, "a few roundings and an e^x to 3e-7"),
    ("elementwise", torch.bfloat16): Tolerance(2e-2, 2e-2, _BF16_SUM),
    ("elementwise", torch.float16): Tolerance(3e-3, 3e-3, _FP16_SUM),
    ("attention", torch.float32): Tolerance(5e-6, 1e-5, _FP32_SUM),
    ("attention", torch.bfloat16): Tolerance(2e-2, 2e-2, _BF16_SUM),
    ("attention", torch.float16): Tolerance(3e-3, 3e-3, _FP16_SUM),
    ("int8", torch.float32): Tolerance(5e-5, 1e-4, _INT8_INPUT),
    ("int8", torch.bfloat16): Tolerance(8e-3, 8e-3, "a result rounded to 8 bits of mantissa"),
    ("int8", torch.float16): Tolerance(1e-3, 1e-3, "a result rounded to 11 bits of mantissa"),
}

LOGPROBS_RMS: dict[torch.dtype, float] = {
    torch.float32: 2e-4,
    torch.bfloat16: 0.4,
    torch.float16: 0.1,
    torch.int8: 0.4,
}
"""Largest root mean square of (got - want) over a whole model's likeliest log-probabilities, by
the type of its weights; ``want`` is in fp32. Rounding adds up over some tens of layers: 1e-5 in
fp32, 0.05 to 0.35 in bf16 and 0.1 to 0.2 in int8 were seen on 30 layers."""


def tolerance(op: str, dtype: torch.dtype) -> Tolerance:
    """Look up one entry. Raises KeyError for an operator or dtype without a stated tolerance."""
    return TOLERANCES[op, dtype]


def assert_close(op: str, got: torch.Tensor, want: torch.Tensor) -> None:
    """Compare a result with the reference under the table's bounds.

    Args:
        op: key of the table, "lora", "attention" or "int8".
        got: result, any shape; its dtype picks the entry.
        want: reference of the same shape, usually fp32.

    Raises:
        AssertionError: a value is out of bounds, or NaN where the reference is not.
    """
    bounds = tolerance(op, got.dtype)
    reference = want.to(torch.float32)
    scale = max(1.0, float(reference.abs().max())) if reference.numel() else 1.0
    torch.testing.assert_close(
        got.to(torch.float32), reference, atol=bounds.atol * scale, rtol=bounds.rtol
    )
