"""`braid engine`: what is there, and what is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.engines import vllm_environment as environments
from deployments.engines.vllm_environment import CPU, Stamp, python_of


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "engines"
    monkeypatch.setenv("BRAID_ENGINES_DIR", str(root))
    return root


def test_without_any_the_list_says_how(braid: Callable[..., Any], engines: Path) -> None:
    result = braid("engine", "list")
    assert result.exit_code == 0
    assert "braid" in result.stdout
    assert "not installed; `braid engine install vllm`" in result.stdout
    assert not engines.exists()


def test_one_of_an_earlier_braid_is_told_apart(braid: Callable[..., Any], engines: Path) -> None:
    folder = engines / "vllm"
    python_of(folder).parent.mkdir(parents=True)
    python_of(folder).touch()
    plugin = environments.plugin_digest(environments.plugin_source())
    Stamp("cpu", CPU.key(), plugin, "0.32.0", "2.13.0").write(folder)
    assert f"0.32.0 for cpu at {folder}\n" in braid("engine", "list").stdout
    Stamp("cpu", "other", plugin, "0.31.0", "2.13.0").write(folder)
    assert "0.31.0 for cpu" in braid("engine", "list").stdout
    assert "brings it up to date" in braid("engine", "list").stdout


def test_only_vllm_is_installed(braid: Callable[..., Any], engines: Path) -> None:
    result = braid("engine", "install", "other")
    assert result.exit_code == 2
    assert "vllm" in result.stderr
    assert not engines.exists()
