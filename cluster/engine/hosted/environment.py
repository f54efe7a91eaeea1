"""Finds vLLM's environment, and makes the variables that a host runs with."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.config import EngineConfig, Settings, engines_folder
from cluster.errors import ConfigError

INSTALL = "braid engine install vllm"
_OF_THIS_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_PRELOAD")


def find_python(config: EngineConfig) -> Path:
    """Return the Python of vLLM's environment.

    Raises:
        ConfigError: there is none; the message says how to make it.
    """
    named = config.vllm.python
    if named is not None:
        if named.is_file():
            return named
        raise ConfigError(f"engine.vllm.python: {named} is not there; name a file, or none")
    python = engines_folder(Settings()) / "vllm" / "bin" / "python"
    if python.is_file():
        return python
    raise ConfigError(f"engine.kind is 'vllm', and {python} is not there; run `{INSTALL}` first")


def host_environment(threads: int) -> dict[str, str]:
    """Return the variables of a host; what the user has set for vLLM stays.

    Args:
        threads: of a CPU; 0 leaves the choice to vLLM.
    """
    found = {k: v for k, v in os.environ.items() if k not in _OF_THIS_ENVIRONMENT}
    defaults = {
        # One process for one rank: the engine core and its worker are the host itself.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if threads:
        found |= {"OMP_NUM_THREADS": str(threads)}
    return defaults | found
