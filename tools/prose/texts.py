"""Finds the prose of a tree: docstrings, comments, messages in string literals, Markdown."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tools.python_syntax import parse_python

FOLDERS_LEFT_OUT = frozenset({"node_modules", "build", "dist"})
DATA = ("demo/generator/", "demo/wordings/", "demo/adapters/", "demo/router/", "docs/results/")
"""Folders whose texts are data, or written by programs."""
FILES_LEFT_OUT = frozenset({"CHANGELOG.md", "tools/prose/rules.py"})
"""The changelog keeps the words of what was released; the rules quote what they ban."""
STRINGS_LEFT_OUT = ("tests/", "demo/", "tools/prose/")
"""Folders in which string literals are data rather than messages."""
VALUE_DECORATORS = ("property", "fixture", "validator", "setter", "overload")

_CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.DOTALL | re.MULTILINE)
_DIRECTIVE = re.compile(r"#!|#\s*(type:|noqa|ruff:|pragma|mypy:|fmt:)")


class Kind(StrEnum):
    """Kinds of prose; the rules differ by kind."""

    MODULE = "module"
    CLASS = "class"
    FUNCTION = "function"
    VALUE = "value"
    """Docstrings of properties, fixtures, fields, tests and special methods."""
    COMMENT = "comment"
    MESSAGE = "message"
    DOCUMENT = "document"


DOCSTRINGS = frozenset({Kind.MODULE, Kind.CLASS, Kind.FUNCTION, Kind.VALUE})


@dataclass(frozen=True)
class Prose:
    """A piece of prose, and the line of its file on which it begins."""

    path: str
    line: int
    kind: Kind
    text: str


def read_tree(root: Path, paths: Iterable[str] = ()) -> Iterator[Prose]:
    """Yield all prose below ``root``, or of some files.

    Args:
        paths: relative to ``root``; files that hold no prose are skipped.
    """
    for path in sorted(paths) or list_files(root):
        if not is_prose(path) or not (root / path).is_file():
            continue
        text = (root / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            yield Prose(path, 1, Kind.DOCUMENT, blank_code(text))
        else:
            yield from read_python(path, text)


def list_files(root: Path) -> list[str]:
    """List the Python and Markdown files below ``root``, sorted, hidden folders left out."""
    found = []
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part in FOLDERS_LEFT_OUT for part in parts)
        if path.suffix in {".py", ".md"} and not hidden:
            found.append("/".join(parts))
    return sorted(found)


def is_prose(path: str) -> bool:
    """Return whether the rules apply to a file, by its path."""
    return (
        path.endswith((".py", ".md")) and path not in FILES_LEFT_OUT and not path.startswith(DATA)
    )


def read_python(path: str, source: str) -> Iterator[Prose]:
    """Yield the docstrings, comments and messages of a Python file."""
    tree = parse_python(source, path)
    seen: set[ast.Constant] = set()
    for constant, kind in _docstrings(tree, in_tests=path.startswith("tests/")):
        seen.add(constant)
        text = str(constant.value)
        yield Prose(path, constant.lineno, kind, text)
    yield from _comments(path, source)
    if not path.startswith(STRINGS_LEFT_OUT):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node not in seen and _is_message(node.value):
                yield Prose(path, node.lineno, Kind.MESSAGE, str(node.value))


def blank_code(text: str) -> str:
    """Replace code in Markdown or a docstring by as many lines without words."""

    def blank(found: re.Match[str]) -> str:
        return "`_`" + "\n" * found[0].count("\n")

    return _CODE.sub(blank, _FENCE.sub(blank, text))


def _docstrings(tree: ast.Module, *, in_tests: bool) -> Iterator[tuple[ast.Constant, Kind]]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for place, statement in enumerate(body):
            constant = _string(statement)
            if constant is None:
                continue
            if place > 0:
                if isinstance(body[place - 1], ast.Assign | ast.AnnAssign):
                    yield constant, Kind.VALUE
            elif isinstance(node, ast.Module):
                yield constant, Kind.MODULE
            elif isinstance(node, ast.ClassDef):
                yield constant, Kind.CLASS
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names_value = _names_value(node) or (in_tests and node.name.startswith("test"))
                yield constant, Kind.VALUE if names_value else Kind.FUNCTION


def _string(statement: ast.stmt) -> ast.Constant | None:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return None
    return statement.value if isinstance(statement.value.value, str) else None


def _names_value(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return node.name.startswith("__") or any(
        word in decorator for decorator in decorators for word in VALUE_DECORATORS
    )


def _comments(path: str, source: str) -> Iterator[Prose]:
    """Yield comments; those on successive lines of their own are one piece."""
    lines: list[str] = []
    first = last = 0
    joins = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        line = token.start[0]
        alone = token.line.lstrip().startswith("#")
        if lines and not (joins and alone and line == last + 1):
            yield Prose(path, first, Kind.COMMENT, "\n".join(lines))
            lines = []
        if not lines:
            first = line
        lines.append(token.string.lstrip("#").strip())
        last, joins = line, alone
    if lines:
        yield Prose(path, first, Kind.COMMENT, "\n".join(lines))


def _is_message(value: object) -> bool:
    """Return whether a literal is read by people: two words or more."""
    return isinstance(value, str) and bool(re.search(r"[A-Za-z]\w* +[a-z]", value))
