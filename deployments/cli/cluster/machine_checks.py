"""Checks of ``braid doctor`` of what computes: GPU, C compiler, CPU kernels, engines."""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.config import Settings, engines_folder
from cluster.nvidia import has_nvidia_device
from deployments.cli.cluster.checks import Check, Verdict
from deployments.engines.vllm_environment import INSTALL, NAME, find

LEAST_CAPABILITY = (8, 0)
COMPILERS = ("gcc", "clang")


def machine_checks(settings: Settings) -> Iterable[Callable[[], Check]]:
    """List the checks that hold for this machine; none has run yet."""
    compiler = (check_compiler,) if has_nvidia_device() else ()
    return (check_gpu, *compiler, check_cpu_kernels, lambda: check_vllm(engines_folder(settings)))


def check_gpu() -> Check:
    """Tell which GPUs Braid's own engine can use."""
    name = "GPU"
    if not has_nvidia_device():
        return Check(name, Verdict.OK, "none; replicas compute on the CPU")
    import torch

    from deployments.local.gpus import torch_problem

    problem = torch_problem()
    if problem is not None:
        found, _, fix = problem.partition("; ")
        return Check(name, Verdict.WARN, found, fix)
    capabilities = [
        torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())
    ]
    found = "; ".join(
        f"{torch.cuda.get_device_name(number)}, compute capability {major}.{minor}"
        for number, (major, minor) in enumerate(capabilities)
    )
    if min(capabilities) < LEAST_CAPABILITY:
        fix = "below 8.0 torch's operators compute, slower than this project's kernels"
        return Check(name, Verdict.WARN, found, fix)
    return Check(name, Verdict.OK, found)


def check_compiler(include: Path | None = None) -> Check:
    """Verify that Triton can compile what starts its kernels: a C compiler and Python's headers."""
    name = "C compiler"
    wanted = os.environ.get("CC")
    compiler = next(filter(None, map(shutil.which, (wanted,) if wanted else COMPILERS)), None)
    if compiler is None:
        found = f"CC is {wanted}, which is not there" if wanted else "none"
        return Check(name, Verdict.FAIL, found, "install gcc with libc6-dev, or name one with CC")
    headers = (include or Path(sysconfig.get_path("include"))) / "Python.h"
    if not headers.is_file():
        return Check(name, Verdict.FAIL, f"{headers} is missing", "install python3-dev")
    return Check(name, Verdict.OK, compiler)


def check_cpu_kernels() -> Check:
    """Tell which kernels compute on the CPU, and what faster ones would need."""
    import torch

    from kernels.compute_path import compute_path

    name = "CPU kernels"
    path = compute_path(torch.device("cpu"), torch.float32)
    if path.lacks:
        return Check(name, Verdict.WARN, path.name, f"faster with {path.lacks}")
    return Check(name, Verdict.OK, path.name)


def check_vllm(root: Path) -> Check:
    """Tell if vLLM is installed, as this Braid would install it."""
    stamp, current = find(root)
    if stamp is None:
        return Check("vLLM", Verdict.OK, f"not installed; `{INSTALL}` does it")
    found = f"{stamp.vllm} for {stamp.device} at {root / NAME}"
    if not current:
        return Check("vLLM", Verdict.WARN, f"{found}, of another Braid", INSTALL)
    return Check("vLLM", Verdict.OK, found)
