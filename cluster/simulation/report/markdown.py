"""The report as a page for people."""

from collections.abc import Sequence

from cluster.simulation.report.figures import Figure, Unit
from cluster.simulation.report.statistics import Interval
from cluster.simulation.report.table import CalibrationNote, Cell, Report, ReportRow

MAIN = (
    ("replicas", "replica-hours", "replica-hours"),
    ("all requests", "SLO attained", "SLO attained"),
    ("all requests", "TTFT p50", "TTFT p50"),
    ("all requests", "TTFT p99", "TTFT p99"),
    ("adapters", "found whole on the device", "whole"),
    ("adapters", "moved by the controller", "moved"),
)
"""Section and name of each figure that a reader looks for first, and its short heading."""
BETTER, WORSE = "▲", "▼"
ABSENT = "-"
NOT_CALIBRATED = (
    "Not calibrated: no recorded log was compared with the simulator's answers. Read the figures "
    "as a comparison of columns, not as a forecast. `braid simulate --calibrate requests.jsonl` "
    "measures the error."
)


def report_page(report: Report, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """Write the report as Markdown.

    Args:
        pictures: (file name, caption) of each picture next to the page.
    """
    lines = ["# What these policies would have done", ""]
    lines += [*calibration_lines(report.calibration), ""]
    lines += [*_short_table(report), ""]
    lines += [f"- {name}: {words}" for name, words in report.setup.items()]
    lines += ["", "| column | what it is |", "|---|---|"]
    lines += [f"| {_cell_text(name)} | {_cell_text(what)} |" for name, what in report.columns]
    lines += ["", *_legend(report), ""]
    lines += [f"- {note}" for note in report.notes]
    if report.notes:
        lines.append("")
    for section in dict.fromkeys(row.figure.section for row in report.rows):
        rows = [row for row in report.rows if row.figure.section == section]
        lines += [f"## {section[:1].upper()}{section[1:]}", "", *_table(report, rows), ""]
    for file, caption in pictures:
        lines += [f"## {caption}", "", f"![{caption}]({file})", ""]
    return "\n".join(lines)


def calibration_lines(calibration: CalibrationNote | None) -> list[str]:
    """Say how far the simulator was from a recorded run, as a red box where it was too far."""
    if calibration is None:
        return [NOT_CALIBRATED]
    if not calibration.too_far:
        return list(calibration.lines)
    warning = "**The simulator was too far from the recorded run to be trusted.**"
    return ["> [!CAUTION]", f"> {warning}", *(f"> {line}" for line in calibration.lines)]


def _legend(report: Report) -> list[str]:
    if len(report.seeds) == 1:
        return ["One seed: nothing is known about the spread between traces of the same kind."]
    words = (
        f"Mean over {len(report.seeds)} seeds, ± half of the 95 % interval (Student's t). All "
        "columns serve the same requests for a seed."
    )
    if len(report.columns) > 1:
        words += (
            f" {BETTER} better and {WORSE} worse than {report.columns[0][0]}: the 95 % interval of "
            "the difference, seed by seed, excludes 0."
        )
    return [words]


def _short_table(report: Report) -> list[str]:
    """Return one row a column: what it costs, and what it gives for that."""
    shown = main_rows(report)
    if not shown:
        return []
    lines = ["| | " + " | ".join(heading for heading, _ in shown) + " |"]
    lines.append("|---|" + "---:|" * len(shown))
    for index, (name, _) in enumerate(report.columns):
        cells = [_short_cell(row, index) for _, row in shown]
        lines.append("| " + " | ".join([f"**{_cell_text(name)}**", *cells]) + " |")
    return lines


def _short_cell(row: ReportRow, index: int) -> str:
    mean, change = mean_text(row.cells[index], row.figure), change_text(row, index)
    return f"{mean} ({change})" if change else mean


def main_rows(report: Report) -> list[tuple[str, ReportRow]]:
    """Return the rows of ``MAIN`` that there are, each with its short heading."""
    rows = [(heading, report.row(section, name)) for section, name, heading in MAIN]
    return [(heading, row) for heading, row in rows if row is not None]


def _table(report: Report, rows: Sequence[ReportRow]) -> list[str]:
    head = ["", *(_cell_text(name) for name, _ in report.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(report.columns)]
    for row in rows:
        cells = [cell_text(cell, row.figure) for cell in row.cells]
        lines.append("| " + " | ".join([_cell_text(row.figure.name), *cells]) + " |")
    return lines


def cell_text(cell: Cell | None, figure: Figure) -> str:
    """Write one cell: mean, interval, unit, and whether it differs from the first column."""
    if cell is None:
        return ABSENT
    return f"{interval_text(cell.interval, figure.unit)} {mark(cell, figure)}".rstrip()


def mean_text(cell: Cell | None, figure: Figure) -> str:
    """Write one cell without its interval."""
    if cell is None:
        return ABSENT
    return interval_text(Interval(cell.interval.mean, None), figure.unit)


def change_text(row: ReportRow, index: int) -> str:
    """Write how far a column's mean is from the first column's, with the sign of what is sure."""
    cell, first = row.cells[index], row.cells[0]
    if not index or cell is None or first is None:
        return ""
    mean, before = cell.interval.mean, first.interval.mean
    if mean == before:
        return "same"
    if row.figure.unit == "%":
        words = f"{100 * (mean - before):+.1f} points"
    else:
        words = f"{100 * (mean / before - 1):+.0f} %" if before else ""
    return f"{words} {mark(cell, row.figure)}".strip()


def mark(cell: Cell, figure: Figure) -> str:
    """Return the sign of a cell that is surely better or worse than the first column's."""
    if cell.difference is None or not cell.differs or figure.better == "neither":
        return ""
    lower = cell.difference.mean < 0
    return BETTER if lower == (figure.better == "less") else WORSE


def interval_text(value: Interval, unit: Unit) -> str:
    """Write a mean and half of its interval in the unit that suits its size."""
    factor, name = _scale(value.mean, unit)
    mean = _number(value.mean * factor)
    spread = "" if value.half is None else f" ± {_number(value.half * factor)}"
    return f"{mean}{spread} {name}".strip()


def _scale(mean: float, unit: Unit) -> tuple[float, str]:
    if unit == "%":
        return 100.0, "%"
    if unit == "s" and abs(mean) < 10:
        return 1e3, "ms"
    return 1.0, unit


def _number(value: float) -> str:
    """Write three significant digits, and no fewer than the whole number."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _cell_text(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
