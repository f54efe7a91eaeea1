"""`braid down` ends the one process that is this state folder's supervisor, and no other."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from deployments.local.local_state import StateDir


def test_down_when_nothing_runs(braid: Callable[..., Any], state: StateDir) -> None:
    for _ in range(2):
        result = braid("down")
        assert result.exit_code == 0
        assert "nothing runs" in result.stdout


def test_a_process_that_is_not_ours_is_left_alone(
    braid: Callable[..., Any], state: StateDir
) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        state.status.write_text(json.dumps({"pid": stranger.pid, "phase": "running"}))
        result = braid("down")
        assert result.exit_code == 0
        assert "nothing runs" in result.stdout
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_down_ends_our_supervisor(
    braid: Callable[..., Any], supervisor: Callable[..., Any]
) -> None:
    process = supervisor()
    result = braid("down")
    assert result.exit_code == 0
    assert "stopped" in result.stdout
    assert process.poll() is not None


def test_a_damaged_status_file_is_named(braid: Callable[..., Any], state: StateDir) -> None:
    state.status.write_text("{")
    result = braid("down")
    assert result.exit_code == 1
    assert str(state.status) in result.stderr
