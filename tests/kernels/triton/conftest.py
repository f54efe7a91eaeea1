"""Triton kernels run in Triton's interpreter here: on CPU tensors, one program after another.

Triton reads TRITON_INTERPRET when a function is decorated. The modules that hold kernels are
imported again under it, Triton's own library functions are decorated again (another test may have
imported Triton before), and all is put back: no other test sees an interpreted kernel.
"""

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import pytest

triton = pytest.importorskip("triton")
interpreter = importlib.import_module("triton.runtime.interpreter")

_KERNEL_MODULES = (
    "kernels.attention.attention_triton_kernels",
    "kernels.attention.attention_triton_ops",
    "kernels.lora.lora_triton_kernels",
    "kernels.lora.lora_triton_tiles",
    "kernels.lora.lora_triton_ops",
)


@dataclass(frozen=True)
class Launch:
    """Holds what a CUDA graph keeps of a launch: the kernel, its grid, addresses and numbers."""

    name: str
    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def replay(self):
        self.kernel[self.grid](*self.args, **self.options)


@dataclass(frozen=True)
class _Recorder:
    name: str
    kernel: Any
    launches: list[Launch]

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.launches.append(Launch(self.name, self.kernel, grid, args, options))

        return launch


@pytest.fixture
def record_launches(monkeypatch):
    """Record the launches of a module's kernels, in place of running them."""

    def record(module_name):
        module = sys.modules[module_name]
        launches = []
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, triton.runtime.KernelInterface):
                monkeypatch.setattr(module, name, _Recorder(name, kernel, launches))
        return launches

    return record


def _interpret_library(patch):
    """Replace Triton's own functions by interpreted ones.

    A launch patches the module that kernels see. The one that Triton's functions see is patched
    here, once, as each call would do for good.
    """
    importlib.import_module("triton.experimental.gluon")  # else imported in mid-launch, and refused
    interpreted = {}
    for library in (triton.language, triton.language.standard):
        for name, function in list(vars(library).items()):
            if isinstance(function, triton.JITFunction):
                if function not in interpreted:
                    interpreted[function] = triton.jit(function.fn)
                patch.setattr(library, name, interpreted[function])

    def call(self, *args, **kwargs):
        return self.rewrite()(*args, **kwargs)

    patch.setattr(interpreter.InterpretedFunction, "__call__", call)
    return interpreter._patch_lang(triton.language.standard.sum.fn)


def _mend_products(patch):
    """Widen bf16 in products: they would take the interpreter's bit patterns for integers."""
    builder = interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def widened(operand):
        if operand.dtype.scalar != triton.language.bfloat16:
            return operand
        values = (operand.data.astype("uint32") << 16).view("float32")
        return interpreter.TensorHandle(values, triton.language.float32)

    def create_dot(self, a, b, *rest):
        return multiply(self, widened(a), widened(b), *rest)

    patch.setattr(builder, "create_dot", create_dot)


@pytest.fixture(scope="module")
def interpreted_kernels():
    operators = (
        importlib.import_module("kernels.lora.lora_triton_dispatch").add_lora_operator,
        importlib.import_module("kernels.attention.attention_triton_dispatch").attention_operators,
    )
    with pytest.MonkeyPatch.context() as patch:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TRITON_INTERPRET", "1")
            for name in _KERNEL_MODULES:
                patch.delitem(sys.modules, name, raising=False)
            for name in _KERNEL_MODULES:
                importlib.import_module(name)
            library = _interpret_library(patch)
            _mend_products(patch)
        for operator in operators:
            operator.cache_clear()
        yield
        library.restore()
    for name in _KERNEL_MODULES:
        sys.modules.pop(name, None)
    for operator in operators:
        operator.cache_clear()
