"""Run a native kernel on torch's own threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir

from kernels.native.compiler import OpenMP, compile_module, new_module, openmp

_I64, _I32 = ir.IntType(64), ir.IntType(32)
_WORDS = _I64.as_pointer()


def call_native(kernel: int, threads: int, *words: int) -> None:
    """Call ``kernel(words, thread, threads)`` once per thread and wait for all of them.

    The kernel learns how many threads there are, which may be fewer than were asked for.

    Args:
        kernel: address of a function of three 64-bit integers, the first one that of ``words``.
        threads: at least 1; with 1 the calling thread does it alone.
        words: 64-bit integers.
    """
    arguments = (ctypes.c_int64 * len(words))(*words)
    _launcher()(kernel, ctypes.addressof(arguments), threads)


@cache
def _launcher() -> Any:
    return launcher(_module)


def launcher(make_module: Callable[[OpenMP], ir.Module]) -> Any:
    """Return ``launch`` of a module, a ctypes function of three 64-bit integers.

    It runs without the interpreter's lock.
    """
    library = openmp()
    if library is None:
        raise RuntimeError("torch runs on another thread library; native kernels are unavailable")
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
    return prototype(compile_module(make_module(library), "launch"))


def team_numbers(b: ir.IRBuilder, library: OpenMP) -> tuple[ir.Value, ir.Value]:
    """Return the number of the thread that runs here, and of all in its team; 64 bits."""
    number = ir.FunctionType(_I32, []).as_pointer()
    thread, threads = (
        b.zext(b.call(b.inttoptr(_i64(function), number), []), _I64)
        for function in (library.thread, library.threads)
    )
    return thread, threads


def start_team(
    b: ir.IRBuilder,
    library: OpenMP,
    body: ir.Function,
    values: Sequence[ir.Value],
    threads: ir.Value,
) -> None:
    """Run ``body``, which is given the address of ``values``, on so many threads, and wait."""
    shared = b.alloca(_I64, len(values))
    for index, value in enumerate(values):
        b.store(value, b.gep(shared, [_i64(index)]))
    parallel = ir.FunctionType(ir.VoidType(), [body.type, _WORDS, _I32, _I32]).as_pointer()
    b.call(
        b.inttoptr(_i64(library.parallel), parallel),
        [body, shared, b.trunc(threads, _I32), ir.Constant(_I32, 0)],
    )


def _module(library: OpenMP) -> ir.Module:
    module = new_module("parallel")
    kernel = ir.FunctionType(ir.VoidType(), [_I64] * 3).as_pointer()

    body = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORDS]), name="body")
    b = ir.IRBuilder(body.append_basic_block("entry"))
    address, words = (b.load(b.gep(body.args[0], [_i64(i)])) for i in range(2))
    b.call(b.inttoptr(address, kernel), [words, *team_numbers(b, library)])
    b.ret_void()

    launch = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 3), name="launch")
    b = ir.IRBuilder(launch.append_basic_block("entry"))
    address, words, threads = launch.args
    alone, team = launch.append_basic_block("alone"), launch.append_basic_block("team")
    b.cbranch(b.icmp_signed("==", threads, _i64(1)), alone, team)
    b.position_at_end(alone)
    b.call(b.inttoptr(address, kernel), [words, _i64(0), _i64(1)])
    b.ret_void()
    b.position_at_end(team)
    start_team(b, library, body, (address, words), threads)
    b.ret_void()
    return module


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)
