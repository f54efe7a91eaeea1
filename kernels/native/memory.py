"""Gives kernels compiled by numba access to memory by its address.

Arrays cost a kernel's caller a microsecond each to hand over; addresses cost nothing.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def floats_at(_context: Any, _address: Any) -> Any:
    """Return a pointer to fp32 values at an address."""
    return types.CPointer(types.float32)(types.int64), _as_pointer(types.float32)


@intrinsic
def ints_at(_context: Any, _address: Any) -> Any:
    """Return a pointer to int64 values at an address."""
    return types.CPointer(types.int64)(types.int64), _as_pointer(types.int64)


@intrinsic
def bytes_at(_context: Any, _address: Any) -> Any:
    """Return a pointer to signed bytes at an address."""
    return types.CPointer(types.int8)(types.int64), _as_pointer(types.int8)


@intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address, mapped or not, to be read."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        known = builder.module.globals.get("llvm.prefetch.p0i8")
        function = known or ir.Function(builder.module, kind, name="llvm.prefetch.p0i8")
        hints = [ir.Constant(word, value) for value in (0, 3, 1)]  # read, keep, data
        builder.call(function, [builder.inttoptr(arguments[0], pointer), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def bits_of(_context: Any, _value: Any) -> Any:
    """Return the 32 bits of an fp32 value, as an integer."""

    def generate(_generator: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(_context: Any, _bits: Any) -> Any:
    """Return the fp32 value with these 32 bits."""

    def generate(_generator: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _as_pointer(kind: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(kind)))

    return generate
