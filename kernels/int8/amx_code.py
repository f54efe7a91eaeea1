# ruff: noqa: ARG001 - numba matches the arguments of an intrinsic by their names
"""Machine code of the int8 product on AMX, compiled by numba when first used.

The weight lies in blocks of `COLUMNS` outputs, [block, step, half, 16, 16 outputs, 4 inputs]: each
step is two tiles for the matrix unit, and a block is one sequential stream. Tokens go in tiles of
eight, each with two rows of digits; up to two such tiles share every weight that is loaded, and a
longer batch goes through a block while it is in the cache.

Threads are those of torch's own OpenMP pool. They quantise the rows together, then each takes the
next block until there is none, so that a thread that is late, because another process holds its
core, finds less left to do.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from kernels.int8.digits import LEVELS, SMALLEST
from kernels.native.memory import bits_of, bytes_at, float_of, floats_at, ints_at

COLUMNS = 32
"""Outputs of a block: two tiles of 16."""

STEP = 64
"""Inputs of one step: the bytes of a tile's row."""

TILE_TOKENS = 8
"""Tokens of a tile: 16 rows of digits."""

SCRATCH_BYTES = 4 * 16 * 16 * 4
"""Of each thread: four tiles of int32 sums."""

# Words of one call: sizes and addresses.
ROWS, INPUTS, OUTPUTS, X, X_STRIDE, INPUT_COLUMNS, DIGITS, SCALES = range(8)
WEIGHTS, WEIGHT_SCALES, BIAS, Y, SUMS, NEXT_BLOCK = range(8, 14)
WORDS = 14
"""The last counts the blocks taken; zero at first."""

_TILES = [f"~{{tmm{i}}}" for i in range(8)]
_CLOBBERED = ["~{memory}", "~{rax}", "~{rcx}", "~{rdx}", "~{r8}", "~{r9}", "~{flags}", *_TILES]

_ONE_TILE = """
tilezero %tmm0
tilezero %tmm1
mov $0, %rax
mov $2, %rcx
mov $4, %rdx
mov $$64, %r8
1:
tileloadd (%rcx,%r8,1), %tmm6
tileloadd 1024(%rcx,%r8,1), %tmm7
tileloadd (%rax,$1,1), %tmm4
PREFETCH
tdpbssd %tmm6, %tmm4, %tmm0
tdpbssd %tmm7, %tmm4, %tmm1
add $$64, %rax
add $$2048, %rcx
dec %rdx
jnz 1b
mov $3, %rax
tilestored %tmm0, (%rax,%r8,1)
tilestored %tmm1, 1024(%rax,%r8,1)
"""

_TWO_TILES = """
tilezero %tmm0
tilezero %tmm1
tilezero %tmm2
tilezero %tmm3
mov $0, %rax
mov $2, %rcx
mov $4, %rdx
mov $1, %r9
shl $$4, %r9
add %rax, %r9
mov $$64, %r8
1:
tileloadd (%rcx,%r8,1), %tmm6
tileloadd 1024(%rcx,%r8,1), %tmm7
tileloadd (%rax,$1,1), %tmm4
PREFETCH
tdpbssd %tmm6, %tmm4, %tmm0
tdpbssd %tmm7, %tmm4, %tmm1
tileloadd (%r9,$1,1), %tmm5
tdpbssd %tmm6, %tmm5, %tmm2
tdpbssd %tmm7, %tmm5, %tmm3
add $$64, %rax
add $$64, %r9
add $$2048, %rcx
dec %rdx
jnz 1b
mov $3, %rax
tilestored %tmm0, (%rax,%r8,1)
tilestored %tmm1, 1024(%rax,%r8,1)
tilestored %tmm2, 2048(%rax,%r8,1)
tilestored %tmm3, 3072(%rax,%r8,1)
"""

_PREFETCH_BYTES = 4096
_PREFETCH = "\n".join(f"prefetcht0 {_PREFETCH_BYTES + 64 * i}(%rcx)" for i in range(32))
"""The hardware's own prefetching stops at the end of each page."""

_INT, _FLOAT, _WORD = ir.IntType(32), ir.FloatType(), ir.IntType(64)
_INTS, _FLOATS = ir.VectorType(_INT, 16), ir.VectorType(_FLOAT, 16)


def _assembly(text: str, arguments: int, clobbered: list[str]) -> Any:
    text = text.replace("PREFETCH", _PREFETCH)
    signature = types.void(*[types.int64] * arguments)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        form = ir.FunctionType(ir.VoidType(), [_WORD] * arguments)
        constraints = ",".join(["r"] * arguments + clobbered)
        builder.call(ir.InlineAsm(form, text, constraints, True), values)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _multiply_one(_context, digits, stride, weights, sums, steps):  # type: ignore[no-untyped-def]
    return _assembly(_ONE_TILE, 5, _CLOBBERED)


@intrinsic
def _multiply_two(_context, digits, stride, weights, sums, steps):  # type: ignore[no-untyped-def]
    return _assembly(_TWO_TILES, 5, _CLOBBERED)


@intrinsic
def _configure_tiles(_context, address):  # type: ignore[no-untyped-def]
    return _assembly("ldtilecfg ($0)", 1, ["~{memory}", *_TILES])


@intrinsic
def _release_tiles(_context):  # type: ignore[no-untyped-def]
    return _assembly("tilerelease", 0, ["~{memory}", *_TILES])


@intrinsic
def _take(_context, address):  # type: ignore[no-untyped-def]
    """Take the number at ``address`` and count it up by one for the next thread."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        counter = builder.inttoptr(values[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(_WORD, 1), "monotonic")

    return types.int64(types.int64), generate


@intrinsic
def _finish16(_context, sums, scale, weight_scales, bias, y):  # type: ignore[no-untyped-def]
    """Write 16 outputs at ``y``: (256 high + low) * (scale * weight scale) + bias; sums lie 64
    apart."""

    def generate(_context: Any, b: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        sums, scale, weight_scales, bias, y = values
        empty = ir.Constant(_FLOATS, ir.Undefined)

        def load(address: ir.Value, kind: ir.Type) -> ir.Value:
            return b.load(b.inttoptr(address, kind.as_pointer()), align=4)

        def splat(value: ir.Value) -> ir.Value:
            first = b.insert_element(empty, value, ir.Constant(_INT, 0))
            return b.shuffle_vector(first, empty, ir.Constant(_INTS, [0] * 16))

        high = b.sitofp(load(sums, _INTS), _FLOATS)
        low = b.sitofp(load(b.add(sums, ir.Constant(_WORD, 64)), _INTS), _FLOATS)
        total = b.fadd(b.fmul(high, splat(ir.Constant(_FLOAT, 256.0))), low)
        scales = b.fmul(splat(scale), load(weight_scales, _FLOATS))
        result = b.fadd(b.fmul(total, scales), load(bias, _FLOATS))
        b.store(result, b.inttoptr(y, _FLOATS.as_pointer()), align=4)
        return _context.get_dummy_value()

    word = types.int64
    return types.void(word, types.float32, word, word, word), generate


_LEVELS, _SMALLEST = np.float32(LEVELS), np.float32(SMALLEST)
_NAN, _ZERO = np.float32(np.nan), np.float32(0.0)
_INFINITY_BITS, _MAGNITUDE_BITS = np.int32(0x7F800000), np.int32(0x7FFFFFFF)
_ROUNDER = np.float32(1.5 * 2**23)  # adding it rounds to a whole number, found in the low bits
_ROUNDER_BITS = np.int32(0x4B400000)
_HALF, _EIGHT = np.int32(128), np.int32(8)


@njit
def _quantise(x, columns, high, low, inputs):  # type: ignore[no-untyped-def]
    """Fill both digits of ``x * columns``, and return the row's scale.

    Magnitudes are compared as integers, where NaN is larger than infinity, and that larger than
    every number.
    """
    largest_bits = np.int32(0)
    for i in range(inputs):
        largest_bits = max(largest_bits, bits_of(x[i] * columns[i]) & _MAGNITUDE_BITS)
    scale, inverse = _ZERO, _ZERO
    if largest_bits < _INFINITY_BITS:
        largest = float_of(largest_bits)
        if largest >= _SMALLEST:
            scale, inverse = largest / _LEVELS, _LEVELS / largest
    if largest_bits >= _INFINITY_BITS:
        scale = _NAN
        for i in range(inputs):
            high[i] = 0
            low[i] = 0
    else:
        for i in range(inputs):
            value = bits_of(x[i] * columns[i] * inverse + _ROUNDER) - _ROUNDER_BITS
            digit = (value + _HALF) >> _EIGHT
            high[i] = np.int8(digit)
            low[i] = np.int8(value - (digit << _EIGHT))
    for i in range(inputs, high.shape[0]):
        high[i] = 0
        low[i] = 0
    return scale


@njit
def _finish(words, tile, scales, block, token):  # type: ignore[no-untyped-def]
    """Write the outputs of one tile's tokens from its sums, which are those of both halves of a
    block."""
    outputs = words[OUTPUTS]
    tokens = min(TILE_TOKENS, words[ROWS] - token)
    for half in range(2):
        column = block * COLUMNS + half * 16
        left = outputs - column
        at = 4 * column
        for r in range(tokens):
            sums = tile + half * 1024 + r * 128
            y = words[Y] + 4 * (token + r) * outputs + at
            if left < 16:
                y = sums  # in place, the part that exists is copied below
            if left > 0:
                _finish16(sums, scales[token + r], words[WEIGHT_SCALES] + at, words[BIAS] + at, y)
            if 0 < left < 16:
                part = carray(floats_at(y), (16,))
                row = carray(floats_at(words[Y] + 4 * (token + r) * outputs + at), (16,))
                for j in range(left):
                    row[j] = part[j]


def compile_kernel(gomp_barrier: int) -> Any:
    """Return the function each thread runs, ``void work(words, thread, threads)``, for
    `call_native`; keep it as long as its address is used.

    Args:
        gomp_barrier: address of the function at which torch's threads wait for each other.
    """
    llvm.initialize_native_asmparser()
    barrier = ctypes.CFUNCTYPE(None)(gomp_barrier)

    @cfunc(types.void(types.int64, types.int64, types.int64))
    def work(address, me, threads):  # type: ignore[no-untyped-def]
        words = carray(ints_at(address), (WORDS,))
        rows, inputs = words[ROWS], words[INPUTS]
        padded = (inputs + STEP - 1) // STEP * STEP
        x_size = (rows - 1) * words[X_STRIDE] + inputs
        x = carray(floats_at(words[X]), (x_size,))
        columns = carray(floats_at(words[INPUT_COLUMNS]), (inputs,))
        digits = carray(bytes_at(words[DIGITS]), (rows * 2 * padded,))
        scales = carray(floats_at(words[SCALES]), (rows,))
        for row in range(me * rows // threads, (me + 1) * rows // threads):
            start, to = row * words[X_STRIDE], row * 2 * padded
            scales[row] = _quantise(
                x[start : start + inputs],
                columns,
                digits[to : to + padded],
                digits[to + padded : to + 2 * padded],
                inputs,
            )
        if threads > 1:
            barrier()
        sums = words[SUMS] + me * SCRATCH_BYTES
        config = carray(bytes_at(sums), (64,))
        for i in range(64):
            config[i] = 0
        config[0] = 1  # palette
        for tile in range(8):
            config[16 + 2 * tile] = 64  # bytes of a row
            config[48 + tile] = 16  # rows
        _configure_tiles(sums)
        blocks = (words[OUTPUTS] + COLUMNS - 1) // COLUMNS
        while True:
            block = _take(address + 8 * NEXT_BLOCK)
            if block >= blocks:
                break
            weights = words[WEIGHTS] + block * COLUMNS * padded
            for token in range(0, rows, 2 * TILE_TOKENS):
                source = words[DIGITS] + token * 2 * padded
                if rows - token > TILE_TOKENS:
                    _multiply_two(source, padded, weights, sums, padded // STEP)
                    _finish(words, sums, scales, block, token)
                    _finish(words, sums + 2048, scales, block, token + TILE_TOKENS)
                else:
                    _multiply_one(source, padded, weights, sums, padded // STEP)
                    _finish(words, sums, scales, block, token)
        _release_tiles()

    return work
