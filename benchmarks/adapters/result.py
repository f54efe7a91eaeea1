"""Results of a proof: JSON for programs, a page for people."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.shared.machine import autogroup, cpu_info, load_average, usable_cores


@dataclass(frozen=True, slots=True)
class ProofVerdict:
    """One thing that must be so."""

    what: str
    found: float
    limit: float
    at_least: bool = False  # else: at most
    unit: str = ""

    @property
    def holds(self) -> bool:
        """True if the figure is within its bound; NaN never is."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a heading."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


@dataclass
class ProofResult:
    """Everything that is written; problems are what no proof expects."""

    title: str
    command: str
    summary: str
    setup: dict[str, Any]
    verdicts: list[ProofVerdict] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    load_before: float = 0.0
    load_after: float = 0.0

    @property
    def holds(self) -> bool:
        """True if every verdict holds and there is no problem."""
        return not self.problems and all(verdict.holds for verdict in self.verdicts)

    def write(self, folder: Path, stem: str) -> None:
        """Write ``stem``.json and ``stem``.md into ``folder``."""
        self.load_after = load_average()
        folder.mkdir(parents=True, exist_ok=True)
        values = asdict(self)
        for verdict, item in zip(self.verdicts, values["verdicts"], strict=True):
            item["holds"] = verdict.holds
        (folder / f"{stem}.json").write_text(json.dumps(values, indent=2) + "\n")
        (folder / f"{stem}.md").write_text(self.page())

    def page(self) -> str:
        """Render the result as Markdown."""
        setup = "; ".join(f"{name}: {value}" for name, value in self.setup.items())
        cpu, _ = cpu_info()
        lines = [
            f"# {self.title}",
            "",
            f"Written by `{self.command}`; do not edit. {self.summary}",
            "",
            f"{setup}.",
            "",
            f"{cpu}, {usable_cores()} cores; load average {self.load_before:.2f} before, "
            f"{self.load_after:.2f} after: all processes of the cluster and the clients share "
            f"the cores. Scheduling by session (autogroup): {autogroup()}.",
            "",
            *_lines(
                ("what must be so", "found", "limit", ""),
                [
                    (
                        verdict.what,
                        f"{verdict.found:.4g}{verdict.unit}",
                        f"{'≥' if verdict.at_least else '≤'} {verdict.limit:.4g}{verdict.unit}",
                        "yes" if verdict.holds else "**no**",
                    )
                    for verdict in self.verdicts
                ],
            ),
            "",
        ]
        for problem in self.problems:
            lines.append(f"- off: {problem}")
        if self.problems:
            lines.append("")
        for table in self.tables:
            lines += [f"## {table.title}", ""]
            if table.note:
                lines += [table.note, ""]
            lines += [*_lines(table.head, table.rows), ""]
        return "\n".join(lines)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed; NaN if there is
    none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def median(values: Sequence[float]) -> float:
    """Return the median; NaN if there is no value."""
    return statistics.median(values) if values else math.nan


def _lines(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows),
    ]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
