"""Documents for contributors name files that exist, and hooks that can be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

DOCUMENTS = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/README.md",
    *(f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))),
)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)[)#]")


def named_paths(text: str) -> set[str]:
    """Return what is written as a path in code, below one of the top folders."""
    words = {word.strip(".,:;()") for code in _CODE.findall(text) for word in code.split()}
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    return {
        word
        for word in words
        if "/" in word and word.partition("/")[0] in tops and not re.search(r"[*<>A-Z]{2}|\*", word)
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_and_link_leads_to_a_file(name: str) -> None:
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    missing = [path for path in named_paths(text) if not (ROOT / path).exists()]
    missing += [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


def test_a_path_that_is_gone_would_be_found() -> None:
    assert named_paths("`tests/no_such.py`, `pytest tests/x`, `a/b`, `docs/NAME.py`") == {
        "tests/no_such.py",
        "tests/x",
    }


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in folder.glob("0*.md")}
    assert pages == set(re.findall(r"\]\((0\d+[^)]*)\)", index))
    for page in pages:
        title = (folder / page).read_text(encoding="utf-8").splitlines()[0]
        number, _, statement = title.removeprefix("# ").partition(": ")
        assert f"[{number}]({page}) | {statement} |" in index


def test_the_hooks_are_valid_and_need_no_network(tmp_path: Path) -> None:
    config = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", config],
        capture_output=True,
        text=True,
        env={"PRE_COMMIT_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = config.read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert set(re.findall(r"language: (\S+)", text)) == {"system"}
