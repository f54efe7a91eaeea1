"""`python -m demo`: a seed gives the same files, help is complete, faults are one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from demo.__main__ import app


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in messages stay on one line."""
    monkeypatch.setenv("COLUMNS", "300")


def run(*words: object) -> Any:
    """Run a command; return its result: exit_code, stdout and stderr."""
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("command", ["data", "build", "evaluate"])
def test_every_command_explains_itself_and_names_an_unknown_option(command: str) -> None:
    assert "Usage:" in run(command, "--help").stdout
    result = run(command, "--no-such-option")
    assert result.exit_code == 2
    assert "--no-such-option" in result.stderr


@pytest.mark.model
def test_a_missing_adapter_is_one_message(tmp_path: Path) -> None:
    places = [f"--{name}={tmp_path / name}" for name in ("adapters", "results", "report")]
    result = run("evaluate", "--no-routed", "--n", "1", *places)
    assert result.exit_code == 1
    assert str(tmp_path / "adapters") in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_demo_data_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        out = tmp_path / name
        result = run("data", "--out", out, "--n-train", "3", "--n-heldout", "2")
        assert result.exit_code == 0, result.stderr

    def files(name: str) -> dict[str, str]:
        found = (tmp_path / name).rglob("*.jsonl")
        return {str(path.relative_to(tmp_path / name)): path.read_text() for path in found}

    first = files("one")
    assert first == files("two")
    assert len(first["sql.train.jsonl"].splitlines()) == 3
    both = [json.loads(line) for line in first["cron-sql.jsonl"].splitlines()]
    assert len(both) == 200
    assert all(" SELECT " in line["completion"] for line in both)
    assert "router/train/general.jsonl" in first
