"""A missing environment is named together with what makes it; a host sees none of ours."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.config import AppConfig, EngineConfig
from cluster.engine.hosted.environment import find_python, host_environment
from cluster.errors import ConfigError


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BRAID_ENGINES_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="run `braid engine install vllm` first"):
        find_python(EngineConfig(kind="vllm"))
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert find_python(EngineConfig(kind="vllm")) == python
    with pytest.raises(ConfigError, match=r"engine\.vllm\.python: /nowhere is not there"):
        find_python(EngineConfig(kind="vllm", vllm={"python": "/nowhere"}))


def test_a_host_runs_without_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    found = host_environment(3)
    assert "PYTHONPATH" not in found
    assert (found["VLLM_LOGGING_LEVEL"], found["OMP_NUM_THREADS"]) == ("DEBUG", "3")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"engine": {"vllm": {"kv_bytes": 5}}}, "vllm: is for kind 'vllm'"),
        ({"engine": {"kind": "vllm", "quantize": "int8"}}, "quantize: is for kind 'braid'"),
        ({"engine": {"kind": "vllm", "vllm": {"gpus": 1}}}, "gpus"),
        ({"replica": {"tensor_parallel": 2}}, "set engine.kind to 'vllm'"),
    ],
)
def test_fields_that_do_not_fit_the_kind_are_refused(
    fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        AppConfig.model_validate(fields)


def test_blocks_have_a_size_that_the_kind_likes() -> None:
    assert EngineConfig().block_size == 16
    assert EngineConfig(kind="vllm").block_size == 32
    assert EngineConfig(kind="vllm", block_size=64).block_size == 64
