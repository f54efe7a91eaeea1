"""Keeps the figures of faults that are still allowed: they can only fall."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.prose.rules import Fault

RULES = ("riddle", "opening", "phrase")
Counts = dict[str, dict[str, int]]
"""Faults by top folder and rule."""


def count(faults: Iterable[Fault]) -> Counts:
    """Count faults by the top folder of their file ("." for the root) and by rule."""
    found: dict[str, Counter[str]] = {}
    for fault in faults:
        folder, slash, _ = fault.path.partition("/")
        found.setdefault(folder if slash else ".", Counter())[fault.rule] += 1
    return {folder: dict(sorted(found[folder].items())) for folder in sorted(found)}


def read_baseline(path: Path) -> Counts:
    """Read the allowed counts; a file that does not exist allows nothing.

    Raises:
        ValueError: the file is not JSON of that form.
    """
    if not path.exists():
        return {}
    allowed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(allowed, dict) or not all(isinstance(one, dict) for one in allowed.values()):
        raise ValueError(f"{path.name}: expected an object of objects; write it with --tighten")
    return allowed


def write_baseline(path: Path, counts: Counts) -> None:
    """Write the allowed counts, or delete the file if there are none."""
    if not counts:
        path.unlink(missing_ok=True)
        return
    path.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def risen(counts: Counts, allowed: Counts) -> list[tuple[str, str]]:
    """List the folders and rules that have more faults than are allowed."""
    return [
        (folder, rule)
        for folder, by_rule in counts.items()
        for rule, number in by_rule.items()
        if number > allowed.get(folder, {}).get(rule, 0)
    ]


def totals(counts: Counts) -> dict[str, int]:
    """Sum the counts of all folders by rule."""
    return {rule: sum(by_rule.get(rule, 0) for by_rule in counts.values()) for rule in RULES}


def may_replace(counts: Counts, allowed: Counts) -> bool:
    """Return whether no rule's total has risen; files may have moved between folders."""
    before, now = totals(allowed), totals(counts)
    return all(now[rule] <= before[rule] for rule in RULES)


def render_table(counts: Counts, allowed: Mapping[str, Mapping[str, int]]) -> str:
    """Render counts by folder and rule, each with its allowance."""
    rows = [["folder", *RULES]]
    for folder in sorted({*counts, *allowed}):
        cells = []
        for rule in RULES:
            now = counts.get(folder, {}).get(rule, 0)
            cells.append(f"{now} (of {allowed.get(folder, {}).get(rule, 0)})")
        rows.append([folder, *cells])
    rows.append(["total", *(str(number) for number in totals(counts).values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
