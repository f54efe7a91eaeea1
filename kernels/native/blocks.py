# ruff: noqa: ARG001 - numba matches the arguments of an intrinsic by their names
"""Vector code for blocks of up to four rows of one tensor by four of another, in registers.

``dots`` are products of rows with rows: of tokens with an adapter's A, of heads with keys. ``adds``
are sums of rows, each with its own factors: of B's rows for a token, of values for a head. LLVM
gives up on such loops by itself, for it cannot tell that the rows that are written and those that
are read do not overlap; here the vectors are written out.

A row's sums have one order, whatever the block it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 4
"""Most rows of a block, on either side."""

HALF = 2
"""Bytes of a bf16 value; what is read may be held in these or in fp32."""

_LANES = 16
_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _HALVES = ir.VectorType(_F32, _LANES), ir.VectorType(_I16, _LANES)
_INTS, _MASK = ir.VectorType(_I32, _LANES), ir.VectorType(ir.IntType(1), _LANES)
_FUSE = ("contract", "reassoc", "nsz")


class _Vectors:
    """Loads, stores and products of 16 values, the last ones of a row under a mask."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._b = builder

    def load(self, address: ir.Value, mask: ir.Value | None, half: bool = False) -> ir.Value:
        kind = _HALVES if half else _FLOATS
        pointer = self._b.inttoptr(address, kind.as_pointer())
        alignment = 2 if half else 4
        if mask is None:
            loaded = self._b.load(pointer, align=alignment)
        else:
            name = "llvm.masked.load.v16i16.p0" if half else "llvm.masked.load.v16f32.p0"
            function = self._declared(name, kind, [pointer.type, _I32, _MASK, kind])
            nothing = ir.Constant(kind, [0 if half else 0.0] * _LANES)
            loaded = self._b.call(function, [pointer, ir.Constant(_I32, alignment), mask, nothing])
        if not half:
            return loaded
        wide = self._b.zext(loaded, _INTS)
        return self._b.bitcast(self._b.shl(wide, ir.Constant(_INTS, [16] * _LANES)), _FLOATS)

    def store(self, value: ir.Value, address: ir.Value, mask: ir.Value | None) -> None:
        pointer = self._b.inttoptr(address, _FLOATS.as_pointer())
        if mask is None:
            self._b.store(value, pointer, align=4)
            return
        name = "llvm.masked.store.v16f32.p0"
        function = self._declared(name, ir.VoidType(), [_FLOATS, pointer.type, _I32, _MASK])
        self._b.call(function, [value, pointer, ir.Constant(_I32, 4), mask])

    def splat(self, value: ir.Value) -> ir.Value:
        empty = ir.Constant(ir.VectorType(value.type, _LANES), ir.Undefined)
        first = self._b.insert_element(empty, value, ir.Constant(_I32, 0))
        return self._b.shuffle_vector(first, empty, ir.Constant(_INTS, [0] * _LANES))

    def add_product(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        return self._b.fadd(self._b.fmul(a, b, flags=_FUSE), total, flags=_FUSE)

    def sum(self, vector: ir.Value) -> ir.Value:
        name = "llvm.vector.reduce.fadd.v16f32"
        function = self._declared(name, _F32, [_F32, _FLOATS])
        return self._b.call(function, [ir.Constant(_F32, -0.0), vector], fastmath=_FUSE)

    def each(self, count: ir.Value, body: Callable[[ir.Value, ir.Value | None], None]) -> None:
        """Emit ``body(index, mask)`` for every 16 of ``count`` values; mask None: all of them."""
        b = self._b
        whole = b.and_(count, _i64(-_LANES))
        with cgutils.for_range_slice(b, _i64(0), whole, _i64(_LANES)) as (index, _):
            body(index, None)
        left = b.trunc(b.sub(count, whole), _I32)
        with b.if_then(b.icmp_signed(">", left, ir.Constant(_I32, 0))):
            lanes = ir.Constant(_INTS, list(range(_LANES)))
            body(whole, b.icmp_signed("<", lanes, self.splat(left)))

    def _declared(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        form = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self._b.module, form, name)


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _dots(rows: int, others: int, half: bool) -> Any:
    """Compute z_t[r] = a_r . x_t for ``others`` rows of a, ``a_row`` bytes apart; z's are
    ``z_row``."""

    def generate(context: Any, b: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        a, a_row, *x, z, z_row, count = values
        v = _Vectors(b)
        zero = ir.Constant(_FLOATS, [0.0] * _LANES)
        sums = []
        for _ in range(rows * others):
            place = cgutils.alloca_once(b, _FLOATS)
            b.store(zero, place)
            sums.append(place)

        def body(index: ir.Value, mask: ir.Value | None) -> None:
            at = b.mul(index, _i64(4))
            weights_at = b.mul(index, _i64(2 if half else 4))
            values = [v.load(b.add(row, at), mask) for row in x]
            for r in range(others):
                row = b.add(a, b.mul(a_row, _i64(r)))
                weight = v.load(b.add(row, weights_at), mask, half)
                for t, value in enumerate(values):
                    place = sums[t * others + r]
                    b.store(v.add_product(weight, value, b.load(place)), place)

        v.each(count, body)
        for t in range(rows):
            for r in range(others):
                row = b.add(z, b.mul(z_row, _i64(t)))
                target = b.inttoptr(b.add(row, _i64(4 * r)), _F32.as_pointer())
                b.store(v.sum(b.load(sums[t * others + r])), target, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * (5 + rows)), generate


def _adds(rows: int, others: int, half: bool) -> Any:
    """Compute y_t += sum_r z_t[r] b_r for ``others`` rows of b, ``b_row`` bytes apart, z's
    ``z_row``."""

    def generate(context: Any, b: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        base, b_row, *y, z, z_row, count = values
        v = _Vectors(b)
        factors = []
        for t in range(rows):
            row = b.add(z, b.mul(z_row, _i64(t)))
            for r in range(others):
                place = b.inttoptr(b.add(row, _i64(4 * r)), _F32.as_pointer())
                factors.append(v.splat(b.load(place, align=4)))

        def body(index: ir.Value, mask: ir.Value | None) -> None:
            at = b.mul(index, _i64(4))
            weights_at = b.mul(index, _i64(2 if half else 4))
            weights = [
                v.load(b.add(b.add(base, b.mul(b_row, _i64(r))), weights_at), mask, half)
                for r in range(others)
            ]
            for t, row in enumerate(y):
                total = v.load(b.add(row, at), mask)
                for r in range(others):
                    total = v.add_product(factors[t * others + r], weights[r], total)
                v.store(total, b.add(row, at), mask)

        v.each(count, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * (5 + rows)), generate


def _intrinsic(make: Any, rows: int, others: int, half: bool) -> Any:
    """Return a function of the other side's address and row size, ``rows`` addresses, z, its row
    size and the values of a row."""
    if rows == 1:

        @intrinsic
        def one(_context, a, a_row, x, z, z_row, count):  # type: ignore[no-untyped-def]
            return make(1, others, half)

        return one
    if rows == 2:

        @intrinsic
        def two(_context, a, a_row, x0, x1, z, z_row, count):  # type: ignore[no-untyped-def]
            return make(2, others, half)

        return two
    if rows == 3:

        @intrinsic
        def three(_context, a, a_row, x0, x1, x2, z, z_row, count):  # type: ignore[no-untyped-def]
            return make(3, others, half)

        return three

    @intrinsic
    def four(_context, a, a_row, x0, x1, x2, x3, z, z_row, count):  # type: ignore[no-untyped-def]
        return make(4, others, half)

    return four


dots_1x4, dots_2x4, dots_3x4, dots_4x4 = (_intrinsic(_dots, n, 4, False) for n in range(1, 5))
dots_1x1, dots_2x1, dots_3x1, dots_4x1 = (_intrinsic(_dots, n, 1, False) for n in range(1, 5))
adds_1x4, adds_2x4, adds_3x4, adds_4x4 = (_intrinsic(_adds, n, 4, False) for n in range(1, 5))
adds_1x1, adds_2x1, adds_3x1, adds_4x1 = (_intrinsic(_adds, n, 1, False) for n in range(1, 5))
half_dots_1x4, half_dots_4x4 = (_intrinsic(_dots, n, 4, True) for n in (1, 4))
half_dots_1x1, half_dots_4x1 = (_intrinsic(_dots, n, 1, True) for n in (1, 4))
half_adds_1x4, half_adds_4x4 = (_intrinsic(_adds, n, 4, True) for n in (1, 4))
half_adds_1x1, half_adds_4x1 = (_intrinsic(_adds, n, 1, True) for n in (1, 4))
