"""Norms, gates and rotary embedding of fp32 rows, compiled by numba; words as each kernel says."""

from typing import Any

from numba import cfunc, njit, types

from kernels.native.arithmetic import fast_exp
from kernels.native.memory import floats_at, ints_at

_FLOAT = 4  # bytes
_FAST = {"reassoc", "contract", "nsz"}  # sums in vector order; NaN and infinity stay what they are
_SIGNATURE = types.void(types.int64, types.int64, types.int64)


@njit(fastmath=_FAST, error_model="numpy", nogil=True, cache=True)
def _norm_row(x: Any, weight: Any, out: Any, width: int, eps: Any) -> None:
    total = types.float32(0.0)
    for i in range(width):
        total += x[i] * x[i]
    factor = types.float32(1.0) / (total / types.float32(width) + eps) ** types.float32(0.5)
    for i in range(width):
        out[i] = x[i] * factor * weight[i]


@njit(fastmath=_FAST, nogil=True, cache=True)
def _add_row(x: Any, addend: Any, width: int) -> None:
    for i in range(width):
        x[i] += addend[i]


@njit(fastmath=_FAST, nogil=True, cache=True)
def _rms_norm(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    rows, width, x_stride = words[3], words[4], words[5]
    weight, eps = floats_at(words[1]), floats_at(words[6])[0]
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        x = floats_at(words[0] + _FLOAT * row * x_stride)
        out = floats_at(words[2] + _FLOAT * row * width)
        if words[7] != 0:
            _add_row(x, floats_at(words[7] + _FLOAT * row * width), width)
        _norm_row(x, weight, out, width, eps)


@njit(fastmath=_FAST, nogil=True, cache=True)
def _norm_heads(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    tokens, stride, heads, dim = words[2], words[3], words[4], words[5]
    weight, eps = floats_at(words[1]), floats_at(words[6])[0]
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        for head in range(heads):
            x = floats_at(words[0] + _FLOAT * (token * stride + head * dim))
            _norm_row(x, weight, x, dim, eps)


@njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)
def _silu_gate(address: int, thread: int, threads: int) -> None:
    words = ints_at(address)
    rows, width = words[2], words[3]
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        gate = floats_at(words[0] + _FLOAT * row * 2 * width)
        up = floats_at(words[0] + _FLOAT * (row * 2 * width + width))
        out = floats_at(words[1] + _FLOAT * row * width)
        for i in range(width):
            out[i] = gate[i] / (types.float32(1.0) + fast_exp(-gate[i])) * up[i]


@njit(fastmath={"contract"}, nogil=True, cache=True)
def _rotate_store(address: int, thread: int, threads: int) -> None:
    w = ints_at(address)
    tokens, heads, kv_heads, dim = w[3], w[4], w[5], w[6]
    stride = (heads + 2 * kv_heads) * dim
    half = dim // 2
    kv_indices = ints_at(w[8])
    for token in range(tokens * thread // threads, tokens * (thread + 1) // threads):
        cos, sin = floats_at(w[1] + _FLOAT * token * dim), floats_at(w[2] + _FLOAT * token * dim)
        row = w[0] + _FLOAT * token * stride
        for head in range(heads + kv_heads):
            low = floats_at(row + _FLOAT * head * dim)
            high = floats_at(row + _FLOAT * (head * dim + half))
            for i in range(half):
                a, b = low[i], high[i]
                low[i] = a * cos[i] - b * sin[i]
                high[i] = b * cos[half + i] + a * sin[half + i]
        source = floats_at(row + _FLOAT * heads * dim)
        target = floats_at(w[7] + _FLOAT * kv_indices[token] * 2 * kv_heads * dim)
        for i in range(2 * kv_heads * dim):
            target[i] = source[i]


@cfunc(_SIGNATURE, cache=True)
def rms_norm(address: int, thread: int, threads: int) -> None:
    """Compute x += addend; out = x / sqrt(mean(x^2) + eps) * weight.

    Words: x, weight, out, rows, width, x's row stride, eps, addend [rows, width] or 0 for none; all
    but the three numbers are addresses.
    """
    _rms_norm(address, thread, threads)


@cfunc(_SIGNATURE, cache=True)
def norm_heads(address: int, thread: int, threads: int) -> None:
    """Compute `rms_norm` of each head in place; words: x, weight, tokens, a token's stride, heads,
    width of a head, eps."""
    _norm_heads(address, thread, threads)


@cfunc(_SIGNATURE, cache=True)
def silu_gate(address: int, thread: int, threads: int) -> None:
    """Compute out = silu(gate) * up; words: gate and up [rows, 2 width], out [rows, width], rows,
    width."""
    _silu_gate(address, thread, threads)


@cfunc(_SIGNATURE, cache=True)
def rotate_store(address: int, thread: int, threads: int) -> None:
    """Rotate query and key heads in place, and copy keys and values to their places in the cache.

    Words: qkv [tokens, heads + 2 kv_heads, dim], cos and sin [tokens, dim], tokens, heads,
    kv_heads, dim, cache [places, 2 kv_heads, dim], kv_indices [tokens] int64.
    """
    _rotate_store(address, thread, threads)
