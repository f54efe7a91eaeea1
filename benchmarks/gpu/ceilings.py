"""Phase: versions, and the rates that bound everything else on this machine."""

import importlib.metadata
import platform
from collections.abc import Sequence

import torch

from benchmarks.gpu.device_time import captured, device_us
from benchmarks.gpu.phase_run import PhaseRun

_PACKAGES = ("torch", "triton", "transformers", "numpy")
_MIB = 2**20
_ADDS = 100
"""Small operations in a row, for the time of a launch."""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _describe(run: PhaseRun) -> None:
    versions = {name: _version(name) for name in _PACKAGES}
    run.record("versions", python=platform.python_version(), **versions)
    if run.is_rehearsal:
        return
    free, total = torch.cuda.mem_get_info()
    found = torch.cuda.get_device_properties(0)
    run.record(
        "device",
        name=found.name,
        multiprocessors=found.multi_processor_count,
        capability=f"{found.major}.{found.minor}",
        l2_mib=round(found.L2_cache_size / _MIB),
        free_gib=round(free / 2**30, 1),
        total_gib=round(total / 2**30, 1),
    )


def _memory(run: PhaseRun) -> None:
    nbytes = 4 * _MIB if run.is_rehearsal else 4096 * _MIB
    source = torch.zeros(nbytes, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    us = device_us(lambda: target.copy_(source), run.device)
    run.record("memory", operation="copy", tb_per_s=2 * nbytes / us / 1e6)
    numbers = source.view(torch.int32)
    us = device_us(lambda: torch.max(numbers), run.device)
    run.record("memory", operation="read", tb_per_s=nbytes / us / 1e6)


def _product(run: PhaseRun) -> None:
    size = 256 if run.is_rehearsal else 8192
    a, b = (torch.randn(size, size, device=run.device).bfloat16() for _ in range(2))
    us = device_us(lambda: a @ b, run.device)
    run.record("product", size=size, tflops=2 * size**3 / us / 1e6)


def _launches(run: PhaseRun) -> None:
    x = torch.zeros(16, device=run.device)

    def many() -> None:
        for _ in range(_ADDS):
            x.add_(1.0)

    run.record(
        "launch",
        us=device_us(many, run.device) / _ADDS,
        captured_us=device_us(captured(many, run.device), run.device) / _ADDS,
    )


def _uploads(run: PhaseRun) -> None:
    """Time an adapter of 84 MiB and the block tables of a step on their way to the device."""
    for name, nbytes in (("adapter", 84 * _MIB), ("block tables", _MIB // 4)):
        host = torch.zeros(nbytes, dtype=torch.uint8)
        there = torch.empty_like(host, device=run.device)
        for kind, source in (("pageable", host), ("page-locked", host.pin_memory())):

            def copy(source: torch.Tensor = source, there: torch.Tensor = there) -> None:
                there.copy_(source, non_blocking=True)

            us = device_us(copy, run.device)
            run.record("upload", what=name, memory=kind, us=us, gb_per_s=nbytes / us / 1e3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the phase."""
    run = PhaseRun.of(arguments)
    _describe(run)
    _memory(run)
    _product(run)
    _launches(run)
    if not run.is_rehearsal:
        _uploads(run)


if __name__ == "__main__":
    main()
