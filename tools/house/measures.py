"""Takes all measures of a tree."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.house.classes import find_callables, find_doubles
from tools.house.imports import (
    Arrows,
    count_arrows_back,
    find_circles,
    find_imports,
    group,
    layer_breaches,
)
from tools.house.strictness import find_strict, read_settings
from tools.house.tree import TESTS, Module, read_modules
from tools.prose.rules import opens_with_riddle

LONG = (300, 400, 500)
FULL_FOLDER = 15
FACES = frozenset({"__init__.py", "__main__.py"})


@dataclass(frozen=True)
class Folder:
    """Figures of one folder, without its subfolders unless said.

    Attributes:
        inner: imports between the files and subfolders of this folder, each pair once.
        outer: other folders that its files import from.
        back: of ``inner``, those that run against the best order; 0 if there is no circle.
    """

    files: int
    lines: int
    inner: int
    outer: int
    back: int


@dataclass(frozen=True)
class House:
    """All measures of one tree."""

    packages: tuple[str, ...]
    """Those of the wheel; files, lines, docstrings and callables are counted in them alone."""
    files: int
    lines: int
    folders: dict[str, Folder]
    circles: list[tuple[str, ...]]
    folder_circles: list[tuple[str, ...]]
    arrows_back: int
    """Between the parts of any folder, summed over all folders of the wheel's packages."""
    breaches: list[tuple[str, str]]
    """Imports against import-linter's layers, as this tree has them."""
    class_doubles: dict[str, tuple[str, ...]]
    file_doubles: dict[str, tuple[str, ...]]
    docstrings: int
    riddles: int
    callables: dict[str, int]
    longer: dict[int, int]
    full_folders: dict[str, int]
    checked: int
    strict: int
    test_files: int
    test_functions: int
    asserts: int
    own_files: int
    """Files that are not tests: the denominator of the strict share."""


def measure(root: Path) -> House:
    """Measure the tree below a folder."""
    everything = read_modules(root)
    tests = [module for module in everything if module.top == TESTS]
    own = [module for module in everything if module.top != TESTS]
    packages = read_packages(root)
    served = [module for module in own if module.top in packages]
    arrows = find_imports(own)
    folder_of = {module.name: module.folder for module in own}
    checked, strict = find_strict(own, read_settings(root))
    docstrings, riddles = count_riddles(served)
    files = Counter(module.folder for module in own)
    folders = {folder: _measure_folder(folder, own, arrows) for folder in sorted(files)}
    return House(
        packages=packages,
        files=len(served),
        lines=sum(module.lines for module in served),
        folders=folders,
        circles=find_circles(arrows),
        folder_circles=find_circles(group(arrows, folder_of)),
        arrows_back=sum(
            count_arrows_back(group(arrows, _parts(folder, served)))
            for folder in _with_parents({module.folder for module in served})
        ),
        breaches=[breach for one in read_layers(root) for breach in layer_breaches(arrows, one)],
        class_doubles=find_doubles(own),
        file_doubles=find_file_doubles(own),
        docstrings=docstrings,
        riddles=riddles,
        callables=find_callables(served),
        longer={bound: sum(module.lines > bound for module in own) for bound in LONG},
        full_folders={name: number for name, number in files.items() if number > FULL_FOLDER},
        checked=checked,
        strict=strict,
        test_files=len(tests),
        test_functions=sum(_count_tests(module) for module in tests),
        asserts=sum(
            isinstance(node, ast.Assert) for module in tests for node in ast.walk(module.tree)
        ),
        own_files=len(own),
    )


def read_packages(root: Path) -> tuple[str, ...]:
    """Read the names of the wheel's packages, in their order in pyproject.toml."""
    path = root / "pyproject.toml"
    tool = tomllib.loads(path.read_text(encoding="utf-8"))["tool"] if path.exists() else {}
    find = tool.get("setuptools", {}).get("packages", {}).get("find", {})
    return tuple(name.rstrip(".*") for name in find.get("include", []))


def read_layers(root: Path) -> list[list[str]]:
    """Read import-linter's contracts about layers, from the highest layer to the lowest."""
    path = root / "pyproject.toml"
    if not path.exists():
        return []
    tool = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]
    contracts = tool.get("importlinter", {}).get("contracts", [])
    found: list[list[str]] = []
    for contract in contracts:
        if contract["type"] == "layers":
            containers = contract.get("containers", [""])
            found += [
                [_qualified(layer, container) for layer in contract["layers"]]
                for container in containers
            ]
    return found


def count_riddles(modules: Iterable[Module]) -> tuple[int, int]:
    """Count docstrings of modules, classes and functions, and those that open with a riddle."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        text
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]
    return len(docstrings), sum(opens_with_riddle(text) for text in docstrings)


def find_file_doubles(modules: Iterable[Module]) -> dict[str, tuple[str, ...]]:
    """Find file names that stand twice within a top folder, as "folder: name", with their paths."""
    found: dict[str, list[str]] = {}
    for module in modules:
        name = module.path.rpartition("/")[2]
        if name not in FACES:
            found.setdefault(f"{module.top}: {name}", []).append(module.path)
    return {name: tuple(paths) for name, paths in sorted(found.items()) if len(paths) > 1}


def _measure_folder(folder: str, modules: Sequence[Module], arrows: Arrows) -> Folder:
    inside = [module for module in modules if module.folder == folder]
    folder_of = {module.name: module.folder for module in modules}
    inner = group(arrows, _parts(folder, modules))
    return Folder(
        files=len(inside),
        lines=sum(module.lines for module in inside),
        inner=sum(len(targets) for targets in inner.values()),
        outer=len(group(arrows, folder_of)[folder]),
        back=count_arrows_back(inner),
    )


def _parts(folder: str, modules: Iterable[Module]) -> dict[str, str]:
    """Map each module below a folder to the file or subfolder of that folder that holds it.

    A folder's face (``__init__.py``) belongs to no part: it may import all of them.
    """
    start = f"{folder}/" if folder else ""
    found = {}
    for module in modules:
        if module.path.startswith(start) and module.path != f"{start}__init__.py":
            found[module.name] = start + module.path.removeprefix(start).partition("/")[0]
    return found


def _with_parents(folders: Iterable[str]) -> set[str]:
    found = set()
    for folder in folders:
        parts = folder.split("/")
        found |= {"/".join(parts[:end]) for end in range(len(parts) + 1)}
    return found


def _qualified(layer: str, container: str) -> str:
    if not container:
        return layer
    mark = ":" if ":" in layer else "|"
    return f" {mark} ".join(f"{container}.{name.strip(' ()')}" for name in layer.split(mark))


def _count_tests(module: Module) -> int:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return sum(
        isinstance(node, functions) and node.name.startswith("test_")
        for node in ast.walk(module.tree)
    )
