"""Results of an experiment, each kept as soon as it is measured."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure_once(
    folder: Path, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return the kept result if it was measured with these settings; else measure and keep it."""
    path = folder / f"{name}.json"
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["fingerprint"] == fingerprint:
            return kept
    result = {"fingerprint": fingerprint, "settings": settings, **measure()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return result


def kept_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every kept result, by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
