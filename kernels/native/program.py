"""Many native calls in one go: a decode step of a CPU, as a graph is one of a GPU.

A step is some three hundred kernels of some tens of microseconds. Started one by one from Python,
each costs an interpreter's ten microseconds and the start and the end of a parallel region; here
they follow one another in a single region, with a barrier between them.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from llvmlite import ir

from kernels.native.compiler import OpenMP, new_module
from kernels.native.parallel import launcher, start_team, team_numbers

_I64, _I32 = ir.IntType(64), ir.IntType(32)
_WORDS = _I64.as_pointer()
_ENTRY = 2
"""Words of an entry: address of the kernel, address of its words."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a kernel, as `kernels.native.parallel.call_native` makes it."""

    kernel: int  # its address
    words: tuple[int, ...]  # given to the kernel again in every run; it may write over them


class Program:
    """Operations in order; each sees what all threads have written in those before."""

    def __init__(self, operations: Iterable[Operation], cuts: Sequence[int] = ()) -> None:
        """Compile at least one operation.

        Args:
            operations: what their words point to must outlive the program.
            cuts: numbers of operations after which a run can be interrupted, ascending.
        """
        operations = tuple(operations)
        words = [word for operation in operations for word in operation.words]
        self._pristine = torch.tensor(words, dtype=torch.int64)
        self._words = torch.empty_like(self._pristine)
        entries = []
        address = self._words.data_ptr()
        for operation in operations:
            entries += [operation.kernel, address]
            address += 8 * len(operation.words)
        self._entries = torch.tensor(entries, dtype=torch.int64)
        first, size = self._entries.data_ptr(), 8 * _ENTRY
        self._whole = (first, len(operations))
        self._parts = [
            (first + begin * size, end - begin)
            for begin, end in itertools.pairwise((0, *cuts, len(operations)))
        ]
        self._copy = (self._words.data_ptr(), self._pristine.data_ptr(), self._words.nbytes)
        self._launch = _launcher()

    def run(self, threads: int, between: Callable[[int], None] | None = None) -> None:
        """Run every operation on ``threads`` >= 1 of torch's threads, or on fewer.

        ``between`` is called with the number of each cut, from 0, when what is before it is done.
        """
        ctypes.memmove(*self._copy)
        if between is None:
            self._launch(*self._whole, threads)
            return
        for cut, part in enumerate(self._parts):
            if cut:
                between(cut - 1)
            self._launch(*part, threads)


@cache
def _launcher() -> Any:
    return launcher(_module)


def _module(library: OpenMP) -> ir.Module:
    module = new_module("program")
    body = _body(module, library)
    launch = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 3), name="launch")
    b = ir.IRBuilder(launch.append_basic_block("entry"))
    entries, count, threads = launch.args
    start_team(b, library, body, (entries, count), threads)
    b.ret_void()
    return module


def _body(module: ir.Module, library: OpenMP) -> ir.Function:
    """Emit ``void body(shared)``: what each thread does with the addresses in ``shared``."""
    kernel = ir.FunctionType(ir.VoidType(), [_I64] * 3).as_pointer()
    wait = ir.FunctionType(ir.VoidType(), []).as_pointer()
    body = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORDS]), name="body")
    entry = body.append_basic_block("entry")
    b = ir.IRBuilder(entry)
    entries, count = (b.load(b.gep(body.args[0], [_i64(i)])) for i in range(2))
    table = b.inttoptr(entries, _WORDS)
    thread, threads = team_numbers(b, library)
    each, done = body.append_basic_block("each"), body.append_basic_block("done")
    b.branch(each)
    b.position_at_end(each)
    index = b.phi(_I64)
    index.add_incoming(_i64(0), entry)
    place = b.gep(table, [b.mul(index, _i64(_ENTRY))])
    address, words = b.load(place), b.load(b.gep(place, [_i64(1)]))
    b.call(b.inttoptr(address, kernel), [words, thread, threads])
    b.call(b.inttoptr(_i64(library.barrier), wait), [])
    following = b.add(index, _i64(1))
    index.add_incoming(following, each)
    b.cbranch(b.icmp_signed("<", following, count), each, done)
    b.position_at_end(done)
    b.ret_void()
    return body


def _i64(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)
