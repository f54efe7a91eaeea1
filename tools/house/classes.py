"""Measures classes: names that stand twice, and callables that constructors take."""

import ast
from collections.abc import Iterable

from tools.house.tree import Module


def find_doubles(modules: Iterable[Module]) -> dict[str, tuple[str, ...]]:
    """Find class names that more than one module defines, with the modules' paths."""
    found: dict[str, set[str]] = {}
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).add(module.path)
    return {name: tuple(sorted(paths)) for name, paths in sorted(found.items()) if len(paths) > 1}


def find_callables(modules: Iterable[Module]) -> dict[str, int]:
    """Count the callables that constructors take, by "path:Class"; classes without are left out.

    Parameters of ``__init__`` and fields of dataclasses count. An annotation counts if it names
    ``Callable``, or an alias of one that is defined at the top of any module.
    """
    listed = list(modules)
    names = {"Callable"} | {name for module in listed for name in _aliases(module)}
    found = {}
    for module in listed:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                number = sum(_mentions(one, names) for one in _annotations(node))
                if number:
                    found[f"{module.path}:{node.name}"] = number
    return found


def _aliases(module: Module) -> Iterable[str]:
    for node in module.tree.body:
        value = getattr(node, "value", None)
        if not isinstance(value, ast.Subscript) or not _is_callable(value.value):
            continue
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _annotations(node: ast.ClassDef) -> Iterable[ast.expr]:
    is_data = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = statement.args
            for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if one.annotation is not None:
                    yield one.annotation
        elif is_data and isinstance(statement, ast.AnnAssign):
            yield statement.annotation


def _mentions(annotation: ast.expr, names: set[str]) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id in names) or _is_callable(node)
        for node in ast.walk(annotation)
    )


def _is_callable(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
    return name == "Callable"
