"""LLVM code of the panel product: a few rows times a weight that is streamed from memory once.

The weight lies in panels of `LANES` output columns, [panel, step, lane], so that a panel is one
sequential stream. A tile of up to `MAX_TILE` rows keeps its sums in registers, one vector per row,
while the panel passes by: each loaded vector is used by every row of the tile, each row's value is
broadcast from the cache. The stream is prefetched far ahead, which the hardware does not do well
enough across the end of a page. Rows of a larger batch go tile by tile through each panel, which
is in the cache by then.

Every output is summed in the order of the input features, whatever the tile: a row's result does
not depend on the other rows, to the last bit.
"""

from __future__ import annotations

from llvmlite import ir

from kernels.native.compiler import declare, new_module

LANES = 16
"""Output columns of a panel: fp32 values of one 512-bit vector."""

MAX_TILE = 16
"""Rows whose sums stay in registers, half of the 32 there are."""

_FLOAT = 4  # bytes
_VECTOR_BYTES = 64
_PREFETCH_BYTES = 4096
_UNROLL = 4

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES = _I8.as_pointer()
_FLOATS = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)
_WORDS = _I64.as_pointer()

PANELS, BIAS, COLUMNS = range(3)
"""Words of a weight's description: addresses of its panels and its bias, output columns."""

_DESCRIPTION, _X, _Y, _Y_STRIDE, _ROWS, _TILE, _NEXT = range(7)
"""Words of one call's work, shared by its threads; the last counts the panels taken."""

_CHUNK = 4
"""Panels a thread takes at once."""


def panel_module(in_features: int) -> ir.Module:
    """Return the module for weights with this many input features; its ``body`` is run by
    `call_native`.

    Its words: addresses of the weight's description, of x [rows, in_features] and of y
    [rows, y_stride] fp32; y_stride; rows >= 1; rows per tile, 1..MAX_TILE; 0.

    Args:
        in_features: at least 1.
    """
    module = new_module(f"panels_{in_features}")
    _thread_body(module, _Emitter(module, in_features).work())
    return module


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _Emitter:
    def __init__(self, module: ir.Module, in_features: int) -> None:
        self._module = module
        self._features = in_features
        self._fma = declare(module, "llvm.fma.v16f32", _FLOATS, [_FLOATS] * 3)
        self._prefetch = declare(
            module, "llvm.prefetch.p0i8", ir.VoidType(), [_BYTES, _I32, _I32, _I32]
        )
        self._masked_store = declare(
            module,
            "llvm.masked.store.v16f32.p0",
            ir.VoidType(),
            [_FLOATS, _FLOATS.as_pointer(), _I32, ir.VectorType(ir.IntType(1), LANES)],
        )

    def work(self) -> ir.Function:
        """Emit ``void work(words, panel)``, which computes one panel for all rows."""
        function = ir.Function(
            self._module, ir.FunctionType(ir.VoidType(), [_WORDS, _I64]), name="work"
        )
        words, panel = function.args
        b = ir.IRBuilder(function.append_basic_block("entry"))
        read = lambda base, index: b.load(b.gep(base, [_i64(index)]))  # noqa: E731
        description = b.inttoptr(read(words, _DESCRIPTION), _WORDS)
        rows, tile, stride = read(words, _ROWS), read(words, _TILE), read(words, _Y_STRIDE)
        weights = b.add(
            read(description, PANELS), b.mul(panel, _i64(self._features * _VECTOR_BYTES))
        )
        column = b.mul(panel, _i64(LANES))
        bias_at = b.add(read(description, BIAS), b.mul(column, _i64(_FLOAT)))
        bias = b.load(b.inttoptr(bias_at, _FLOATS.as_pointer()), align=_FLOAT)
        left = b.trunc(b.sub(read(description, COLUMNS), column), _I32)
        mask = b.icmp_signed("<", ir.Constant(_INTS, list(range(LANES))), self._splat(b, left))
        y = b.add(read(words, _Y), b.mul(column, _i64(_FLOAT)))

        head, done = function.append_basic_block("tiles"), function.append_basic_block("done")
        entry = b.block
        b.branch(head)
        b.position_at_end(head)
        row = b.phi(_I64)
        row.add_incoming(_i64(0), entry)
        rest = b.sub(rows, row)
        count = b.select(b.icmp_signed("<", rest, tile), rest, tile)
        switch = b.switch(count, done)
        for size in range(1, MAX_TILE + 1):
            block = function.append_basic_block(f"tile{size}")
            switch.add_case(_i64(size), block)
            b.position_at_end(block)
            x = b.add(read(words, _X), b.mul(row, _i64(self._features * _FLOAT)))
            sums = self._sums(b, x, weights, size)
            for m, value in enumerate(sums):
                target = b.add(y, b.mul(b.mul(b.add(row, _i64(m)), stride), _i64(_FLOAT)))
                b.call(
                    self._masked_store,
                    [
                        b.fadd(value, bias),
                        b.inttoptr(target, _FLOATS.as_pointer()),
                        ir.Constant(_I32, _FLOAT),  # alignment
                        mask,
                    ],
                )
            after = b.add(row, _i64(size))
            row.add_incoming(after, b.block)
            b.cbranch(b.icmp_signed("<", after, rows), head, done)
        b.position_at_end(done)
        b.ret_void()
        return function

    def _sums(self, b: ir.IRBuilder, x: ir.Value, weights: ir.Value, rows: int) -> list[ir.Value]:
        """Emit the sums of one tile: a loop over the steps, and what its unrolling leaves."""
        function = b.function
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        sums: list[ir.Value] = [zero] * rows
        looped = self._features // _UNROLL * _UNROLL
        if looped:
            loop = function.append_basic_block(f"sum{rows}")
            after = function.append_basic_block(f"rest{rows}")
            before = b.block
            b.branch(loop)
            b.position_at_end(loop)
            step, w, values = b.phi(_I64), b.phi(_I64), b.phi(_I64)
            phis = [b.phi(_FLOATS) for _ in range(rows)]
            for phi, start in zip(
                (step, w, values, *phis), (_i64(0), weights, x, *sums), strict=True
            ):
                phi.add_incoming(start, before)
            sums = self._features_of(b, values, w, phis, _UNROLL)
            following = (
                b.add(step, _i64(_UNROLL)),
                b.add(w, _i64(_UNROLL * _VECTOR_BYTES)),
                b.add(values, _i64(_UNROLL * _FLOAT)),
                *sums,
            )
            for phi, value in zip((step, w, values, *phis), following, strict=True):
                phi.add_incoming(value, loop)
            b.cbranch(b.icmp_signed("<", following[0], _i64(looped)), loop, after)
            b.position_at_end(after)
        return self._features_of(
            b,
            b.add(x, _i64(looped * _FLOAT)),
            b.add(weights, _i64(looped * _VECTOR_BYTES)),
            sums,
            self._features - looped,
        )

    def _features_of(
        self, b: ir.IRBuilder, x: ir.Value, weights: ir.Value, sums: list[ir.Value], count: int
    ) -> list[ir.Value]:
        sums = list(sums)
        for step in range(count):
            address = b.add(weights, _i64(step * _VECTOR_BYTES))
            ahead = b.inttoptr(b.add(address, _i64(_PREFETCH_BYTES)), _BYTES)
            b.call(self._prefetch, [ahead, *(ir.Constant(_I32, v) for v in (0, 3, 1))])
            weight = b.load(b.inttoptr(address, _FLOATS.as_pointer()), align=_VECTOR_BYTES)
            for m in range(len(sums)):
                offset = (m * self._features + step) * _FLOAT
                value = b.load(b.inttoptr(b.add(x, _i64(offset)), _F32.as_pointer()), align=_FLOAT)
                sums[m] = b.call(self._fma, [weight, self._splat(b, value), sums[m]])
        return sums

    @staticmethod
    def _splat(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
        vector = ir.VectorType(value.type, LANES)
        empty = ir.Constant(vector, ir.Undefined)
        first = b.insert_element(empty, value, ir.Constant(_I32, 0))
        return b.shuffle_vector(first, empty, ir.Constant(_INTS, [0] * LANES))


def _thread_body(module: ir.Module, work: ir.Function) -> None:
    """Emit ``void body(words, thread, threads)``, which takes the next panel until there is none.

    Threads that are late, because another process holds their core, find less left to do.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 3), name="body")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    words = b.inttoptr(function.args[0], _WORDS)
    description = b.inttoptr(b.load(b.gep(words, [_i64(_DESCRIPTION)])), _WORDS)
    columns = b.load(b.gep(description, [_i64(COLUMNS)]))
    panels = b.sdiv(b.add(columns, _i64(LANES - 1)), _i64(LANES))
    head = function.append_basic_block("head")
    run = function.append_basic_block("run")
    done = function.append_basic_block("done")
    b.branch(head)
    b.position_at_end(head)
    first = b.atomic_rmw("add", b.gep(words, [_i64(_NEXT)]), _i64(_CHUNK), "monotonic")
    b.cbranch(b.icmp_signed("<", first, panels), run, done)
    b.position_at_end(run)
    stop = b.add(first, _i64(_CHUNK))
    stop = b.select(b.icmp_signed("<", stop, panels), stop, panels)
    each = function.append_basic_block("each")
    b.branch(each)
    b.position_at_end(each)
    panel = b.phi(_I64)
    panel.add_incoming(first, run)
    b.call(work, [words, panel])
    following = b.add(panel, _i64(1))
    panel.add_incoming(following, each)
    b.cbranch(b.icmp_signed("<", following, stop), each, head)
    b.position_at_end(done)
    b.ret_void()
