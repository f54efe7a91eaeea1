"""Targets of the Makefile that a newcomer meets before anything is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a folder with the Makefile alone."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (None, "is not a working Python"),
        ("exit 1", "is not a working Python"),
        ('[ "$1" = --version ] && echo Python 3.9.2 && exit 0; exit 1', "is Python 3.9.2"),
    ],
)
def test_a_python_that_does_not_serve_is_named(
    checkout: Path, script: str | None, found: str
) -> None:
    python = checkout / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o700)
    result = make(checkout, "up", f"PYTHON={python}")
    assert result.returncode != 0
    assert f"{python} {found}: name another one, as in `make PYTHON=" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (checkout / ".venv").exists()


def test_make_alone_lists_the_targets_and_installs_nothing(checkout: Path) -> None:
    result = make(checkout)
    assert result.returncode == 0, result.stderr
    listed = {line.split()[0] for line in result.stdout.splitlines()}
    assert {"up", "down", "test", "check", "clean"} <= listed
    assert not (checkout / ".venv").exists()


def test_down_installs_nothing(checkout: Path) -> None:
    result = make(checkout, "down")
    assert result.returncode == 0, result.stderr
    assert "nothing is installed in .venv" in result.stdout
    assert not (checkout / ".venv").exists()


def test_clean_removes_what_a_build_left(checkout: Path) -> None:
    (checkout / "build").mkdir()
    (checkout / ".venv").mkdir()
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / "build").exists()
    assert not (checkout / ".venv").exists()
