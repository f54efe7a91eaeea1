"""The examples that need no server, and the form of all of them."""

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in {".py", ".sh"})


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / name))


def test_own_router_weighs_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    main = load("own_router.py")["main"]
    main("select the customers, every day at noon")
    assert capsys.readouterr().out == "mixture: cron 0.67 sql 0.33\n"
    assert main("Hello").weights == ()


def test_a_busy_replica_with_the_adapter_is_picked(capsys: pytest.CaptureFixture[str]) -> None:
    pick = load("pick_replica.py")["main"]()
    assert pick.chosen == "busy"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["busy", "idle"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_short_and_in_the_list(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    assert f"[{path.name}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    if path.suffix == ".sh":
        assert subprocess.run(["bash", "-n", path]).returncode == 0
