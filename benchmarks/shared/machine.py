"""Words for the machine, so that figures can be compared."""

import os
import platform
from pathlib import Path

import torch

ISA_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
"""Instruction sets that decide how fast a product is; x86 names, then Arm's."""


def cpu_info(path: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """Name the CPU and those of ``ISA_FLAGS`` that it has; falls back to what Python knows."""
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in ISA_FLAGS if flag in flags)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def autogroup(path: Path = Path("/proc/sys/kernel/sched_autogroup_enabled")) -> str:
    """Find out if Linux schedules by terminal session: "on", "off", or "unknown".

    It does so only if nothing else groups processes.
    """
    if not path.is_file():
        return "unknown"
    return "off" if path.read_text().strip() == "0" else "on"


def load_average() -> float:
    """Return the mean number of runnable processes in the last minute.

    Above the number of threads in use, other programs were busy too.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def torch_build() -> str:
    """Name torch's version and the instruction set it chose for itself."""
    return f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
