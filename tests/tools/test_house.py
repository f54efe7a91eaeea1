"""The figures of a tree: imports, circles, names, docstrings and strictness, from files alone."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.house.__main__ import main, measure_revision
from tools.house.imports import (
    count_arrows_back,
    find_circles,
    find_imports,
    layer_breaches,
)
from tools.house.measures import measure
from tools.house.strictness import find_strict
from tools.house.table import render
from tools.house.tree import read_modules

PROJECT = """
[tool.setuptools.packages.find]
include = ["low*", "high*"]

[[tool.importlinter.contracts]]
name = "One way"
type = "layers"
layers = ["high", "low"]

[tool.mypy]
packages = ["low", "high"]
strict = true

[[tool.mypy.overrides]]
module = ["high.*"]
disallow_untyped_defs = false
"""

FILES = {
    "pyproject.toml": PROJECT,
    "low/__init__.py": "",
    "low/one.py": '"""What it is."""\nfrom typing import TYPE_CHECKING\n'
    "if TYPE_CHECKING:\n    from low import two\n",
    "low/two.py": '"""Holds two."""\ndef f():\n    from . import one\n    import high.other\n',
    "low/sub/__init__.py": "class Twice: ...\n",
    "low/sub/one.py": "from collections.abc import Callable\nRun = Callable[[], None]\n"
    "class Taker:\n"
    "    def __init__(self, a: Run, b: 'int', c: Callable[[], None] | None = None) -> None: ...\n",
    "high/__init__.py": "",
    "high/other.py": "from low.sub import Twice as T\nimport low.sub.one\nclass Twice: ...\n",
    "high/long.py": "x = 1\n" * 301,
    "tests/test_it.py": "def test_one():\n    assert True\nasync def test_two():\n    pass\n",
    "build/lib/copy.py": "class Twice: ...\n",
    ".venv/lib/copy.py": "class Twice: ...\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_tree_is_measured_without_importing_it(tree: Path) -> None:
    house = measure(tree)
    assert house.packages == ("low", "high")
    assert (house.files, house.own_files) == (8, 8)
    assert house.circles == [("low.one", "low.two")], "lazy and typing imports count"
    assert house.breaches == [("low.two", "high.other")]
    assert house.class_doubles == {"Twice": ("high/other.py", "low/sub/__init__.py")}
    assert house.file_doubles == {"low: one.py": ("low/one.py", "low/sub/one.py")}
    assert (house.docstrings, house.riddles) == (2, 1)
    assert house.callables == {"low/sub/one.py:Taker": 2}
    assert house.longer == {300: 1, 400: 0, 500: 0}
    assert (house.checked, house.strict) == (8, 5)
    assert (house.test_files, house.test_functions, house.asserts) == (1, 2, 1)
    assert house.folders["high"].outer == 1
    assert (house.folders["low"].inner, house.folders["low"].back) == (2, 1)
    # low <-> high at the root, low.one <-> low.two within low.
    assert house.arrows_back == 2
    assert house.folder_circles == []


def test_relative_and_plain_imports_name_the_module_that_is_meant(tree: Path) -> None:
    arrows = find_imports(read_modules(tree))
    assert arrows["low.two"] == {"low.one", "high.other"}
    assert arrows["high.other"] == {"low.sub", "low.sub.one"}
    assert arrows["low.sub"] == set()


@pytest.mark.parametrize(
    ("arrows", "circles", "back"),
    [
        ({}, [], 0),
        ({"a": "b", "b": "c", "c": ""}, [], 0),
        ({"a": "b", "b": "a"}, [("a", "b")], 1),
        ({"a": "b", "b": "c", "c": "a"}, [("a", "b", "c")], 1),
        ({"a": "bc", "b": "ac", "c": "ab"}, [("a", "b", "c")], 3),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, [("a", "b"), ("c", "d")], 2),
    ],
)
def test_circles_and_the_fewest_arrows_back(
    arrows: dict[str, str], circles: list[tuple[str, ...]], back: int
) -> None:
    assert find_circles(arrows) == circles
    assert count_arrows_back(arrows) == back


@given(st.dictionaries(st.integers(0, 7), st.frozensets(st.integers(0, 7)), min_size=1))
def test_no_order_has_fewer_arrows_back_than_its_circles_need(
    drawn: dict[int, frozenset[int]],
) -> None:
    names = set(drawn) | {one for targets in drawn.values() for one in targets}
    arrows = {
        str(name): frozenset(str(one) for one in drawn.get(name, ()) if one != name)
        for name in names
    }
    back, circles = count_arrows_back(arrows), find_circles(arrows)
    assert (back == 0) == (not circles)
    assert back >= len(circles)
    assert back <= sum(len(targets) for targets in arrows.values()) // 2
    flipped = {
        name: frozenset(other for other in arrows if name in arrows[other]) for name in arrows
    }
    assert count_arrows_back(flipped) == back, "turning all arrows round changes nothing"
    assert find_circles(flipped) == circles


def test_a_large_tangle_is_bounded_from_above() -> None:
    ring = {str(place): frozenset({str((place + 1) % 40)}) for place in range(40)}
    assert 1 <= count_arrows_back(ring) <= 20


def test_independent_layers_and_joined_ones() -> None:
    arrows = {"a.x": frozenset({"b"}), "b": frozenset({"c.y"}), "c.y": frozenset({"a"})}
    assert layer_breaches(arrows, ["a | b", "c"]) == [("a.x", "b"), ("c.y", "a")]
    assert layer_breaches(arrows, ["a : b", "c"]) == [("c.y", "a")]


def test_old_settings_without_strict_name_the_strict_ones(tree: Path) -> None:
    modules = read_modules(tree)
    old = {"packages": ["low"], "overrides": [{"module": "low.sub.*", "strict": True}]}
    assert find_strict(modules, old) == (5, 2)
    assert find_strict(modules, {}) == (0, 0)


def test_a_commit_is_measured_beside_the_working_tree(tree: Path) -> None:
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(tree))
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "low", "high", "pyproject.toml"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "one"], check=True)
    (tree / "low" / "one.py").write_text('"""Holds it."""\n')
    before, now = measure_revision("HEAD", tree), measure_revision(None, tree)
    assert (before.riddles, now.riddles) == (1, 0)
    text = render(now, before, "HEAD")
    assert text.startswith("# The house in figures\n")
    assert "| circles between modules | 1 | 0 |" in text
    with pytest.raises(ValueError, match="--rev no-such: expected a commit"):
        measure_revision("no-such", tree)


@pytest.mark.slow
def test_the_command_measures_this_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "house.json"
    assert main(["--json", "--out", str(out)]) == 0
    now = json.loads(out.read_text())["now"]
    assert now["breaches"] == []
    assert now["files"] > 100
    assert main(["--rev", "no-such"]) == 1
    assert "expected a commit" in capsys.readouterr().err
