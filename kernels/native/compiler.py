"""LLVM as a library: kernels are written as its intermediate code and compiled when first needed.

No system compiler takes part, so the kernels exist wherever the wheels can be installed. What the
machine lacks, its vector instructions or torch's thread pool, is asked for here; callers keep
another way for such machines.
"""

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_lock = threading.Lock()
_engines: list[Any] = []  # compiled code lives as long as its engine


@cache
def cpu_features() -> frozenset[str]:
    """Return the host's instruction sets by LLVM's names, e.g. ``avx512f``; empty if unknown."""
    _initialize()
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, present in features.items() if present)


@dataclass(frozen=True, slots=True)
class OpenMP:
    """Addresses of the functions of torch's thread library."""

    parallel: int  # GOMP_parallel(function, argument, threads, flags)
    barrier: int  # GOMP_barrier()
    thread: int  # omp_get_thread_num()
    threads: int  # omp_get_num_threads()


@cache
def openmp() -> OpenMP | None:
    """Return the OpenMP library that torch has loaded, or None if torch was built with another than
    GNU's.

    Work handed to it runs on torch's own threads: one pool, no competition between two.
    """
    import torch

    if "OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        return OpenMP(
            parallel=_address(library.GOMP_parallel),
            barrier=_address(library.GOMP_barrier),
            thread=_address(library.omp_get_thread_num),
            threads=_address(library.omp_get_num_threads),
        )
    except (OSError, AttributeError):
        return None


def compile_module(module: ir.Module, name: str) -> int:
    """Return the address of one function of a module, compiled; it stays valid.

    Args:
        module: verified by LLVM before it is compiled.
        name: of the function.
    """
    _initialize()
    with _lock:
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, _target_machine())
        engine.finalize_object()
        _engines.append(engine)
        address: int = engine.get_function_address(name)
        return address


def new_module(name: str) -> ir.Module:
    """Return an empty module for this machine."""
    _initialize()
    module = ir.Module(name=name)
    module.triple = llvm.get_process_triple()
    return module


def declare(
    module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]
) -> ir.Function:
    """Declare one of LLVM's own functions, once per module."""
    known = module.globals.get(name)
    return known or ir.Function(module, ir.FunctionType(result, arguments), name=name)


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target_machine() -> Any:
    # Two 512-bit units are worth more here than the higher clock of 256-bit code.
    features = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None  # a symbol that was found has one
    return address
