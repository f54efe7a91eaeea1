"""Tells which GPUs a local cluster can use, and how many replicas there are to be."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ConfigError
from cluster.nvidia import has_nvidia_device
from deployments.engines.vllm_environment import Stamp, python_of

USUAL_REPLICAS = 2
CPU_FIX = "leave out --gpus, or start with --device cpu"
COUNT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Share:
    """The replicas of a local cluster, and the GPUs of each."""

    replicas: int
    gpus: int  # of each replica: 1 or 0
    unused: str | None = None  # why a GPU that is there is not used


def share_out(
    device: str, gpus: int | None, replicas: int | None, *, environment: Path | None
) -> Share:
    """Give each replica a GPU of its own, or none.

    Args:
        device: "auto", "cpu" or "cuda".
        gpus: to use in all; None: not said.
        replicas: wanted; None: not said.
        environment: of an engine that does not compute in this one; None: Braid's own computes.

    Raises:
        ConfigError: the GPUs that are asked for cannot be used, or the numbers differ.
    """
    if gpus is not None and device == "cpu":
        raise ConfigError("--gpus: engine.device is cpu; leave one of them out")
    if gpus is not None and replicas is not None and gpus != replicas:
        raise ConfigError(
            f"--gpus {gpus} --replicas {replicas}: a replica has one GPU, so the numbers must be "
            "equal; leave one of them out"
        )
    if device == "cpu":
        return Share(replicas or USUAL_REPLICAS, 0)
    if gpus is None and device == "auto":
        problem = _problem(environment) if has_nvidia_device() else ""
        if problem is not None:
            return Share(replicas or USUAL_REPLICAS, 0, problem or None)
    found = _count(environment)
    wanted = gpus or replicas
    if wanted is not None and wanted > found:
        raise ConfigError(
            f"{wanted} replicas need {wanted} GPUs, one each, and there "
            f"{'is' if found == 1 else 'are'} {found}; ask for fewer with --gpus, see "
            "CUDA_VISIBLE_DEVICES, or start with --device cpu"
        )
    return Share(wanted or min(USUAL_REPLICAS, found), 1)


def _problem(environment: Path | None) -> str | None:
    """Say why the engine cannot use this machine's GPUs, and what helps; None if it can."""
    if environment is None:
        return torch_problem()
    stamp = Stamp.read(environment)
    if stamp is None or stamp.device == "cuda":
        return None
    return (
        "this machine has a GPU, and vLLM is installed for CPUs; install its other build with "
        "`braid engine install vllm --device cuda`"
    )


def _count(environment: Path | None) -> int:
    """Return how many GPUs the engine sees, at least one.

    Raises:
        ConfigError: it sees none; the message says why.
    """
    if not has_nvidia_device():
        raise ConfigError(
            "no GPU was found: this machine shows neither /dev/nvidia* nor nvidia-smi; install "
            f"the driver (in a container, pass the GPUs on), or {CPU_FIX}"
        )
    problem = _problem(environment)
    if problem is not None:
        raise ConfigError(f"{problem}, or {CPU_FIX}")
    if environment is not None:
        return _count_in(environment)
    import torch

    return torch.cuda.device_count()


def torch_problem() -> str | None:
    """Say why torch cannot use this machine's GPUs, and what helps; None if it can."""
    import torch

    if torch.version.cuda is None:
        return (
            f"this machine has a GPU, and torch {torch.__version__} is a build without CUDA; "
            "install the other one: `make clean`, then `make up TORCH=default`"
        )
    if not torch.cuda.is_available():
        return (
            f"this machine has a GPU, and torch {torch.__version__} cannot use it; see what "
            "nvidia-smi and CUDA_VISIBLE_DEVICES say, and if the driver serves CUDA "
            f"{torch.version.cuda}"
        )
    return None


def _count_in(environment: Path) -> int:
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(
        [str(python_of(environment)), "-c", code],
        capture_output=True,
        text=True,
        timeout=COUNT_TIMEOUT_S,
    )
    found = int(done.stdout) if done.returncode == 0 else 0
    if found == 0:
        raise ConfigError(
            f"vLLM's torch finds no GPU; see what nvidia-smi and CUDA_VISIBLE_DEVICES say, or "
            f"{CPU_FIX}{': ' if done.stderr else ''}{done.stderr.strip()[-500:]}"
        )
    return found
