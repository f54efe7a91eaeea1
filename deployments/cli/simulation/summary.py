"""Writes a report to files, and its main figures to the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from cluster.simulation.report.drawing import PICTURES, draw_report
from cluster.simulation.report.markdown import (
    BETTER,
    WORSE,
    calibration_lines,
    change_text,
    main_rows,
    mean_text,
    report_page,
)
from cluster.simulation.report.report_document import report_json
from cluster.simulation.report.series import RunSeries
from cluster.simulation.report.table import Report
from deployments.cli.toolkit import console

PAGE, DOCUMENT = "report.md", "report.json"


def check_folder(folder: Path) -> None:
    """Refuse a place for the report before anything is simulated; nothing is made yet.

    Raises:
        ConfigError: it is a file, or it or a file of the report in it cannot be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--out {folder}: {nearest} is not a directory; name a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: {nearest} cannot be written; name another directory")
    for name in (PAGE, DOCUMENT, *PICTURES):
        file = folder / name
        if file.is_dir() or (file.exists() and not os.access(file, os.W_OK)):
            raise ConfigError(f"--out {folder}: {file} is there and cannot be written; remove it")


def write_report(report: Report, series: Sequence[RunSeries | None], folder: Path) -> None:
    """Write the page, the JSON file and the pictures.

    Raises:
        ConfigError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_report(report, [run for run in series if run is not None], folder)
        (folder / DOCUMENT).write_text(report_json(report), encoding="utf-8")
        (folder / PAGE).write_text(report_page(report, drawn), encoding="utf-8")
    except OSError as error:
        place = error.filename or folder
        raise ConfigError(f"--out {folder}: {place} cannot be written: {error.strerror}") from error


def show_report(report: Report) -> None:
    """Print calibration, setup, notes and the main figures."""
    calibration = report.calibration
    style = "dim" if calibration is None else "bold red" if calibration.too_far else "green"
    for line in calibration_lines(calibration):
        _line(line.removeprefix("> "), style)
    for name, words in report.setup.items():
        _line(f"{name}: {words}", "dim")
    for note in report.notes:
        _line(note, "yellow")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    shown = main_rows(report)
    for heading, _ in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (name, _) in enumerate(report.columns):
        cells = [Text(mean_text(row.cells[index], row.figure)) for _, row in shown]
        table.add_row(Text(name, style="bold"), *cells)
        if index:
            table.add_row("", *(_colored(change_text(row, index)) for _, row in shown))
    console.out.print()
    console.out.print(table)
    if len(report.seeds) > 1 and len(report.columns) > 1:
        _line(
            f"means of {len(report.seeds)} seeds; {BETTER} better and {WORSE} worse than "
            f"{report.columns[0][0]} at 95 %; --out and --json have every figure and its interval",
            "dim",
        )


def _line(words: str, style: str) -> None:
    """Print one line in a style, its brackets as they are."""
    console.out.print(Text(words, style=style))


def _colored(words: str) -> Text:
    style = "green" if words.endswith(BETTER) else "red" if words.endswith(WORSE) else "dim"
    return Text(words, style=style)
