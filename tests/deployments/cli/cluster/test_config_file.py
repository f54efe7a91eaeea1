"""`braid up --config` sets what no option sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Settings
from deployments.cli.cluster.launch import Wish, plan_launch
from deployments.local.local_state import StateDir

WRITTEN = """
tenant_isolation: false
engine: {fairness: fifo, max_queued: 7, threads: 3}
adapters: {dtype: float32, slots: 5, source_dir: own}
front:
  max_connections: 9
  trace_log: {path: trace.jsonl, files: 3}
controller: {policy_file: /etc/braid/policy.yaml}
"""


def plan(state: StateDir, **options: Any) -> Any:
    return plan_launch(Wish(no_demo=True, **options), state, Settings())


def test_what_has_no_option_is_set_and_paths_are_from_the_files_folder(
    state: StateDir, tmp_path: Path
) -> None:
    file = tmp_path / "here" / "braid.yaml"
    file.parent.mkdir()
    policy = tmp_path / "policy.yaml"
    policy.write_text("replicas: {min: 3, max: 4}\n")
    file.write_text(WRITTEN.replace("/etc/braid", ".."))
    launch = plan(state, config=file)
    config = launch.config
    assert not config.tenant_isolation
    assert (config.engine.fairness, config.engine.max_queued, config.engine.threads) == (
        "fifo", 7, 3,
    )  # fmt: skip
    assert (config.adapters.dtype, config.adapters.slots) == ("float32", 5)
    assert config.adapters.source_dir == file.parent / "own"
    assert config.front.max_connections == 9
    assert config.front.trace_log.path == file.parent / "trace.jsonl"
    assert config.front.trace_log.files == 3
    assert config.controller.policy_file == policy
    assert launch.replicas == 3


def test_an_option_has_the_last_word(state: StateDir, tmp_path: Path) -> None:
    file = tmp_path / "braid.yaml"
    file.write_text("engine: {threads: 3}\nadapters: {slots: 5, dtype: float32}\n")
    config = plan(state, config=file, slots=2, threads=1).config
    assert (config.adapters.slots, config.adapters.dtype, config.engine.threads) == (
        2,
        "float32",
        1,
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("front: {trace_log: {pth: x}}", "front.trace_log.path: Field required"),
        ("engine: {max_queued: -1}", "engine.max_queued: Input should be"),
        ("frnt: {}", "frnt: unknown key; known keys: tenant_isolation, engine, adapters"),
        ("model: org/other", "model: not read from this file; give --model"),
        ("replica: {replicas: 3}", "replica: not read from this file; give --replicas"),
        ("", "expected keys as in a Serve config's args, such as `front:`"),
        ("- front", "expected keys as in a Serve config's args, such as `front:`"),
        ("front: {port: 1\n", "not YAML"),
        ("front: {}\nfront: {}\n", 'key "front" is written twice'),
    ],
)
def test_a_wrong_file_is_refused_with_its_path(
    braid: Callable[..., Any], tmp_path: Path, written: str, words: str
) -> None:
    file = tmp_path / "braid.yaml"
    file.write_text(written)
    result = braid("up", "--no-demo", "--config", file)
    assert result.exit_code == 1
    assert str(file) in result.stderr
    assert words in result.stderr


def test_a_missing_file_is_named(braid: Callable[..., Any], tmp_path: Path) -> None:
    result = braid("up", "--no-demo", "--config", tmp_path / "none.yaml")
    assert result.exit_code == 1
    assert f"{tmp_path / 'none.yaml'}: cannot be read" in result.stderr
