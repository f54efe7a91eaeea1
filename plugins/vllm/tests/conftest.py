"""Fixtures: a small model with adapters, and vLLM serving it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from small_model import SmallModel

# For machines without a GPU and without a network; what is set already stays.
for variable, value in {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # the oracle's threads do not survive a fork
}.items():
    os.environ.setdefault(variable, value)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """A model of two layers with eight adapters of mixed ranks, and its oracle."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: mixtures are not compared with merged weights")
    from small_model import SmallModel

    return SmallModel.write(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def resident(small: SmallModel) -> Iterator[Any]:
    """A vLLM with all adapters loaded to stay."""
    from engines import start

    llm = start(small, max_loras=len(small.names))
    for name in small.names:
        llm.collective_rpc("load_adapter", args=(name, small.folder(name)))
    yield llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="session")
def crowded(small: SmallModel) -> Iterator[Any]:
    """A vLLM with three slots, for eight adapters that come and go."""
    from engines import start

    llm = start(small, max_loras=3)
    yield llm
    llm.llm_engine.engine_core.shutdown()
