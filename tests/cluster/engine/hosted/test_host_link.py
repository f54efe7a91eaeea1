"""A host that cannot load its model says why, and ends; it needs no vLLM to do so."""

import sys
from pathlib import Path

import psutil
import pytest

from cluster.engine.hosted.environment import host_environment
from cluster.engine.hosted.host_link import HostLink
from cluster.engine.hosted.messages import Start
from cluster.errors import ConfigError


def link(python: str, tmp_path: Path) -> HostLink:
    start = Start(
        model=str(tmp_path),
        dtype="float32",
        max_model_len=64,
        max_batch_size=1,
        max_batch_tokens=64,
        block_size=32,
        device="auto",
        kv_blocks=4,
        kv_blocks_named=False,
        kv_bytes=None,
        prefix_cache=True,
        eager=True,
        slots=1,
        max_rank=8,
        tensor_parallel=1,
        seed=0,
        options={},
    )
    return HostLink(Path(python), host_environment(1), start)


def test_an_environment_without_vllm_is_told(tmp_path: Path) -> None:
    found = link(sys.executable, tmp_path)
    with pytest.raises(
        ConfigError, match="No module named 'vllm'; run `braid engine install vllm`"
    ):
        found.open()
    found.close()
    assert not psutil.pid_exists(found.process.pid)


def test_a_program_that_ends_at_once_is_told(tmp_path: Path) -> None:
    found = link("/bin/false", tmp_path)
    with pytest.raises(ConfigError, match="ended while it loaded"):
        found.open()
    found.close()


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/nowhere cannot be run"):
        link("/nowhere", tmp_path).open()
