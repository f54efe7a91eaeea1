"""`braid doctor`: each fault is found, and comes with its fix."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Settings
from cluster.errors import ConfigError
from cluster.tenancy.keys import write_keys
from deployments.cli.cluster import checks
from deployments.cli.cluster.checks import Verdict
from deployments.local.local_state import StateDir


def test_an_old_python_fails() -> None:
    assert checks.check_python((3, 10, 9)).verdict is Verdict.FAIL
    assert checks.check_python((3, 11, 0)).verdict is Verdict.OK


def test_this_installation_has_what_it_asks_for() -> None:
    assert checks.check_packages().verdict is Verdict.OK


def test_a_wrong_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks.installed_version
    found = {"torch": "1.0.0", "redis": None}
    monkeypatch.setattr(
        checks, "installed_version", lambda name: found[name] if name in found else real(name)
    )
    result = checks.check_packages()
    assert result.verdict is Verdict.FAIL
    assert "torch 1.0.0, not ==2.13.0" in result.found
    assert "redis is missing" in result.found


def test_pins_are_compared_without_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# a comment\ntorch==2.13.0\nrich==15.0.0 --hash=x\nabsent==1\n")
    found = {"torch": "2.13.0+cpu", "rich": "15.0.0", "absent": None}
    monkeypatch.setattr(checks, "installed_version", found.get)
    assert checks.check_lock(lock).verdict is Verdict.OK
    found["rich"] = "15.0.1"
    result = checks.check_lock(lock)
    assert result.verdict is Verdict.WARN
    assert "rich 15.0.1, tested with 15.0.0" in result.found


def test_a_distribution_called_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_kernels().verdict is Verdict.OK
    monkeypatch.setattr(checks, "installed_version", lambda _: "0.4.5")
    result = checks.check_kernels()
    assert result.verdict is Verdict.FAIL
    assert "pip uninstall kernels" in result.fix


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0, Verdict.FAIL), (1, Verdict.WARN), (1.9, Verdict.WARN), (2, Verdict.OK)],
)
def test_grades(value: float, verdict: Verdict) -> None:
    assert checks.graded("x", value, 1, 2, "found", "fix").verdict is verdict


def test_the_port(state: StateDir, supervisor: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = checks.check_port(state, port)
        assert result.verdict is Verdict.FAIL
        assert "--port" in result.fix
        supervisor(port=port)
        assert checks.check_port(state, port).verdict is Verdict.OK


def test_a_model_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    result = checks.check_model(tmp_path / "not" / "made" / "yet")
    assert result.verdict is Verdict.WARN
    assert "braid model fetch" in result.fix


def test_redis(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_store(Settings()).verdict is Verdict.OK
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
        monkeypatch.setenv("BRAID_REDIS_URL", url)
        assert checks.check_store(Settings()).verdict is Verdict.FAIL


def test_secrets_that_others_can_read(state: StateDir) -> None:
    assert checks.check_state(state).verdict is Verdict.OK
    write_keys(state.keys, {"acme": "k"})
    assert checks.check_state(state).verdict is Verdict.OK
    state.keys.chmod(0o640)
    result = checks.check_state(state)
    assert result.verdict is Verdict.FAIL
    assert f"{state.keys} has mode 0640, not 0600" in result.found


def test_a_state_folder_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "below"):
        result = checks.check_state(StateDir(root))
        assert result.verdict is Verdict.FAIL
        assert f"{file} is not a directory" in result.found
        assert "BRAID_STATE_DIR" in result.fix
        with pytest.raises(ConfigError, match=f"state folder {root} .*BRAID_STATE_DIR"):
            StateDir.open(root)
    assert "will be made" in checks.check_state(StateDir(tmp_path / "new" / "one")).found


def test_the_report_and_its_status(
    braid: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        lambda: checks.Check("Alpha", Verdict.OK, "fine"),
        lambda: checks.Check("Beta", Verdict.WARN, "so so", "rest"),
    ]
    monkeypatch.setattr(checks, "all_checks", lambda *_: lines)
    result = braid("doctor")
    assert result.exit_code == 0
    assert "-> rest" in result.stdout
    lines.append(lambda: checks.Check("Gamma", Verdict.FAIL, "broken", "mend it"))
    result = braid("doctor")
    assert result.exit_code == 1
    assert "-> mend it" in result.stdout
