"""The report as JSON for programs: the same seeds give the same bytes."""

import json
from dataclasses import asdict
from typing import Any

from cluster.simulation.report.statistics import Interval
from cluster.simulation.report.table import Cell, Report

REPORT_FORMAT = "braid.simulation-report.v1"


def report_document(report: Report) -> dict[str, Any]:
    """Return the report as JSON values."""
    names = [name for name, _ in report.columns]
    return {
        "format": REPORT_FORMAT,
        "setup": dict(report.setup),
        "seeds": list(report.seeds),
        "columns": [{"name": name, "what": what} for name, what in report.columns],
        "calibration": None if report.calibration is None else asdict(report.calibration),
        "notes": list(report.notes),
        "rows": [
            {
                **row.figure._asdict(),
                "columns": {
                    name: _cell(cell)
                    for name, cell in zip(names, row.cells, strict=True)
                    if cell is not None
                },
            }
            for row in report.rows
        ],
    }


def report_json(report: Report) -> str:
    """Return the report as JSON text."""
    return json.dumps(report_document(report), indent=1, ensure_ascii=False) + "\n"


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        **_interval(cell.interval),
        "difference": None if cell.difference is None else _interval(cell.difference),
        "seeds": {str(seed): value for seed, value in cell.values.items()},
    }


def _interval(value: Interval) -> dict[str, float | None]:
    return {"mean": value.mean, "low": value.low, "high": value.high}
