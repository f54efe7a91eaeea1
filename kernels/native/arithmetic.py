"""Functions that LLVM can compute on whole vectors, for kernels compiled by numba."""

from typing import Any

from numba import njit, types

from kernels.native.memory import bits_of, float_of

_LOG2_E = types.float32(1.4426950408889634)
_LN2_HIGH = types.float32(0.693145751953125)  # few bits: its product with a whole number is exact
_LN2_LOW = types.float32(1.42860682030941723e-6)
_ROUNDER = types.float32(12582912.0)  # 1.5 * 2^23: adding it leaves no fraction bits
_ROUNDER_BITS = types.int32(0x4B400000)
_LOWEST = types.float32(-87.0)
_HIGHEST = types.float32(88.0)


@njit(fastmath={"contract"}, nogil=True, cache=True)
def fast_exp(x: Any) -> Any:
    """Compute e^x in fp32, to 3e-7 of the result; from -87 down it stays at e^-87, from 88 up at
    e^88.

    2^n e^r with n the nearest whole number to x log2(e), and a polynomial for e^r. No branch and no
    call, so that a loop over it becomes vector code. NaN stays NaN.
    """
    bounded = min(max(x, _LOWEST), _HIGHEST) if x == x else x
    shifted = bounded * _LOG2_E + _ROUNDER
    n = shifted - _ROUNDER
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    power = types.float32(1.0 / 5040)
    power = power * r + types.float32(1.0 / 720)
    power = power * r + types.float32(1.0 / 120)
    power = power * r + types.float32(1.0 / 24)
    power = power * r + types.float32(1.0 / 6)
    power = power * r + types.float32(0.5)
    power = power * r + types.float32(1.0)
    power = power * r + types.float32(1.0)
    exponent = (bits_of(shifted) - _ROUNDER_BITS + types.int32(127)) << types.int32(23)
    return power * float_of(types.int32(exponent))
