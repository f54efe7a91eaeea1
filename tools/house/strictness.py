"""Works out which files mypy checks, and which of them strictly, from pyproject.toml."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.house.tree import Module

OWN_FLAGS = ("disallow_untyped_defs", "disallow_incomplete_defs", "disallow_any_generics")
"""Flags of mypy about a file's own annotations; "strict" turns all of them on."""


def read_settings(root: Path) -> dict[str, Any]:
    """Read mypy's settings; empty if the project has none."""
    path = root / "pyproject.toml"
    tool = tomllib.loads(path.read_text(encoding="utf-8"))["tool"] if path.exists() else {}
    settings: dict[str, Any] = tool.get("mypy", {})
    return settings


def find_strict(modules: Iterable[Module], settings: Mapping[str, Any]) -> tuple[int, int]:
    """Count the files that mypy checks, and those of them that it checks strictly.

    A file is checked if it lies in one of ``packages``. It is strict if none of ``OWN_FLAGS`` is
    off for it; what it calls in half-typed libraries does not count.
    """
    packages = [str(name) for name in settings.get("packages", [])]
    overrides = [
        ([_pattern(name) for name in _listed(one["module"])], one)
        for one in settings.get("overrides", [])
    ]
    checked = strict = 0
    for module in modules:
        if not any(module.name == name or module.name.startswith(f"{name}.") for name in packages):
            continue
        checked += 1
        given: dict[str, Any] = dict(settings)
        for patterns, override in overrides:
            if any(pattern.fullmatch(module.name) for pattern in patterns):
                given |= override
        on = bool(given.get("strict", False))
        strict += all(given.get(flag, on) for flag in OWN_FLAGS) and not given.get("ignore_errors")
    return checked, strict


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _pattern(name: str) -> re.Pattern[str]:
    """Compile a pattern of mypy's: "a.*" is a with all that is below it."""
    body = re.escape(name.removesuffix(".*")).replace(r"\*", ".*")
    return re.compile(body + (r"(\..*)?" if name.endswith(".*") else ""))
