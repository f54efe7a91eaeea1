"""Sources are parsed whole, whatever the garbage collector sets off meanwhile."""

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.house.tree import read_modules
from tools.prose.texts import read_python
from tools.python_syntax import parse_python

SOURCE = "x = [" + "(1, {2: 3}), " * 2000 + "]\n"


@pytest.fixture
def parsing_collector() -> Iterator[list[str]]:
    """A collector that runs all the time, and sets off what parses; its runs are counted."""
    runs: list[str] = []

    def parse(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)
        ast.parse("y = 1 + 2")

    before = gc.get_threshold()
    gc.callbacks.append(parse)
    gc.set_threshold(50)
    try:
        yield runs
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(parse)


def test_the_collector_cannot_disturb_a_tree(tmp_path: Path, parsing_collector: list[str]) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text(SOURCE)
    for _ in range(5):
        assert len(parse_python(SOURCE).body) == 1
        assert [module.name for module in read_modules(tmp_path)] == ["package.one"]
        assert list(read_python("one.py", SOURCE)) == []
    assert parsing_collector, "the collector did not run at all"
    assert gc.isenabled()


def test_what_is_not_python_is_an_error_and_the_collector_goes_on() -> None:
    with pytest.raises(SyntaxError, match=r"one\.py"):
        parse_python("x = (", "one.py")
    assert gc.isenabled()
