"""The table "before, demanded, after", kept as JSON so that a run renews only its own rows."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.placement.row import ResultRow
from benchmarks.shared.machine import cpu_info, usable_cores

STEM = "placement"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One row, and where it is from."""

    job: str  # the rows of one job are renewed together
    command: str
    machine: str
    row: ResultRow


def this_machine() -> str:
    """Describe the machine without its name."""
    cpu, _ = cpu_info()
    return f"{cpu}, {usable_cores()} cores"


def read_rows(path: Path) -> list[MeasuredRow]:
    """Read what earlier runs measured, if there is a file."""
    if not path.is_file():
        return []
    found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [
        MeasuredRow(item["job"], item["command"], item["machine"], ResultRow(**item["row"]))
        for item in found
    ]


def merge_rows(old: Iterable[MeasuredRow], new: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Replace the rows of every job that is in ``new``; sorts by name, numbers as numbers."""
    renewed = {measured.job for measured in new}
    kept = [measured for measured in old if measured.job not in renewed]
    return sorted([*kept, *new], key=lambda measured: _natural(measured.row.name))


def _natural(name: str) -> tuple[Any, ...]:
    """Sort N2 before N13, and what has no number last."""
    number = _NUMBER.search(name)
    return (number is None, int(number.group()) if number else 0, name)


def write_rows(folder: Path, rows: Sequence[MeasuredRow]) -> Path:
    """Write the page and its JSON file; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"rows": [asdict(measured) for measured in rows]}
    (folder / f"{STEM}.json").write_text(
        json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    path = folder / f"{STEM}.md"
    path.write_text(page(rows), encoding="utf-8")
    return path


def page(rows: Sequence[MeasuredRow]) -> str:
    """Render the table."""
    lines = [
        "# Picking, placing and scaling: before, demanded, after",
        "",
        "Written by `python -m benchmarks.placement`; do not edit. Each row is renewed by its own "
        "command, named below.",
        "",
        "| row | what | before | demanded | after | seeds, interval | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for measured in rows:
        row = measured.row
        met = {True: "yes", False: "**no**", None: "-"}[row.met]
        cells = (row.name, row.what, row.before, row.demanded, row.after, row.interval, met)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "## Commands", "", "| rows | command | machine |", "|---|---|---|"]
    jobs: dict[tuple[str, str], list[str]] = {}
    for measured in rows:
        jobs.setdefault((measured.command, measured.machine), []).append(measured.row.name)
    for (command, machine), names in jobs.items():
        listed = ", ".join(dict.fromkeys(names))
        lines.append(f"| {_cell(listed)} | `{command}` | {_cell(machine)} |")
    return "\n".join(lines) + "\n"


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
