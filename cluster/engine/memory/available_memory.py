"""Measures how much memory may still be taken: of the machine, the container, or the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.memory.memory_need import check_fits, memory_need
from cluster.engine.memory.model_shape import ModelShape

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNLIMITED = 2**60
"""Version 1 says "no limit" with a number about this large."""


def check_memory(
    model_dir: Path, engine: EngineConfig, adapters: AdapterConfig, *, replicas: int = 1
) -> None:
    """Refuse a model that does not fit before it is loaded.

    Args:
        model_dir: folder of the base model.
        engine: as configured.
        adapters: as configured.
        replicas: how many are to share this machine's memory; on GPUs each has its own.

    Raises:
        ConfigError: it does not fit; the message has the figures and what would help.
    """
    shape = ModelShape.read(model_dir)
    if shape is None:
        return
    device = device_type(engine.device)
    check_fits(
        memory_need(shape, engine, adapters, device),
        available_bytes(device),
        engine,
        model=model_dir.name,
        device=device,
        replicas=replicas if device == "cpu" else 1,
    )


def device_type(wanted: str) -> str:
    """Resolve ``auto`` to the GPU if there is one."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def available_bytes(device: str) -> int:
    """Return the bytes that a process may still take on "cpu" or "cuda"."""
    if device != "cpu":
        import torch

        free: int = torch.cuda.mem_get_info()[0]
        return free
    left = [psutil.virtual_memory().available]
    if OWN_CGROUPS.is_file():
        left += cgroup_headrooms(CGROUPS, OWN_CGROUPS.read_text())
    return min(left)


def cgroup_headrooms(root: Path, membership: str) -> Iterator[int]:
    """Yield what each memory limit that holds for a process leaves, in bytes.

    Args:
        root: where control groups are mounted.
        membership: the text of the process's ``/proc/<pid>/cgroup``.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / path.strip("/")
        while True:
            left = _headroom(folder, limit, usage)
            if left is not None:
                yield left
            if folder == base:
                break
            folder = folder.parent


def _headroom(folder: Path, limit: str, usage: str) -> int | None:
    """Return what a limit leaves. Pages of files count as used but are given back when memory is
    short."""
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # no limit is set here, or this level is not visible in the container
    if most == "max" or int(most) >= UNLIMITED:
        return None
    return max(0, int(most) - used + int(stat.get("inactive_file", 0)))
